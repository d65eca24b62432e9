//! Files of PyTorch's are taken over only where the libraries are the same.

use std::fs;
use std::path::PathBuf;

use octet_backend::Validator;
use octet_tune::{ImportError, import};

use crate::fake::{Fake, problem, solution};

const PYTORCH: &str = "Validator,PT_VERSION,2.5.0\nValidator,GCN_ARCH_NAME,gfx942:sramecc+:xnack-\n\
                       Validator,HIPBLASLT_VERSION,0.10.0-abc\n\
                       GemmTunableOp_BFloat16_TN,tn_64_8_32,Gemm_Hipblaslt_TN_12345,0.0712\n\
                       GemmStridedBatchedTunableOp_Half_NN,nn_1_2_3_B_4,Default,1\n";

fn file(folder: &tempfile::TempDir, text: &str) -> PathBuf {
    let path = folder.path().join("tunableop_results0.csv");
    fs::write(&path, text).unwrap();
    path
}

fn device(pytorch: &[(&str, &str)]) -> Fake {
    let mut device = Fake::new(vec![solution("Default", |_| 1)]);
    device.pytorch = pytorch.iter().map(|(key, value)| Validator::new(key, value)).collect();
    device
}

#[test]
fn equal_libraries_share_their_results() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(&[("GCN_ARCH_NAME", "gfx942:sramecc+:xnack-"), ("HIPBLASLT_VERSION", "0.10.0-abc")]);
    let (results, notes) = import(&file(&folder, PYTORCH), &device, "a GPU").unwrap();
    assert_eq!(results.get(&problem(8)).unwrap().solution, "Gemm_Hipblaslt_TN_12345");
    assert_eq!(notes.iter().map(|note| note.line).collect::<Vec<_>>(), [5]);
}

#[test]
fn a_device_with_other_libraries_refuses_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, PYTORCH);
    let error = import(&path, &device(&[]), "cpu").unwrap_err();
    assert!(matches!(error, ImportError::OtherLibraries { .. }));
    let text = error.to_string();
    assert!(text.contains("HIPBLASLT_VERSION 0.10.0-abc") && text.contains("cpu"), "{text}");
    let newer = device(&[("GCN_ARCH_NAME", "gfx942:sramecc+:xnack-"), ("HIPBLASLT_VERSION", "0.12.0")]);
    let text = import(&path, &newer, "a GPU").unwrap_err().to_string();
    assert!(text.contains("0.10.0-abc") && text.contains("0.12.0"), "{text}");
}

#[test]
fn files_that_are_not_pytorchs_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let device = device(&[("GCN_ARCH_NAME", "gfx942")]);
    let own = file(&folder, "Validator,OCTET_VERSION,1.2.3\n");
    assert!(matches!(import(&own, &device, "a GPU"), Err(ImportError::NotPyTorch { .. })));
    let missing = folder.path().join("missing");
    assert!(matches!(import(&missing, &device, "a GPU"), Err(ImportError::Read { .. })));
}
