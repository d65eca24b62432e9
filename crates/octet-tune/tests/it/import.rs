//! Files of PyTorch's are taken over only where the libraries are the same.

use std::fs;
use std::path::PathBuf;

use octet_backend::Validator;
use octet_tune::{ImportError, import, take_over};

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

#[test]
fn what_the_device_says_nothing_about_does_not_matter_and_versions_have_several_names() {
    let folder = tempfile::tempdir().unwrap();
    let text = PYTORCH.replace("GCN_ARCH", "ROCBLAS_VERSION,4.2.0\nValidator,GCN_ARCH");
    let both = [
        ("GCN_ARCH_NAME", "gfx942:sramecc+:xnack-"),
        ("HIPBLASLT_VERSION", "1000-abc"),
        ("HIPBLASLT_VERSION", "0.10.0-abc"),
    ];
    assert!(import(&file(&folder, &text), &device(&both), "a GPU").is_ok());
    let without = PYTORCH.replace("Validator,HIPBLASLT_VERSION,0.10.0-abc\n", "");
    let error = import(&file(&folder, &without), &device(&both), "a GPU").unwrap_err().to_string();
    assert!(error.contains("HIPBLASLT_VERSION is missing"), "{error}");
}

#[test]
fn solutions_are_taken_where_the_device_has_them_and_the_others_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let text = PYTORCH.replace(
        "GemmStrided",
        "GemmTunableOp_BFloat16_TN,tn_64_1_32,Gemm_Rocblas_7,0.1\n\
         GemmTunableOp_BFloat16_TN,tn_64_2_32,Default,0.1\n\
         GemmTunableOp_BFloat16_TN,tn_65_1_32,Gemm_Hipblaslt_TN_12345,0.1\nGemmStrided",
    );
    let mut device = Fake::new(vec![solution("Default", |_| 1), solution("Gemm_Hipblaslt_TN_12345", |_| 1)]);
    device.pytorch = vec![
        Validator::new("GCN_ARCH_NAME", "gfx942:sramecc+:xnack-"),
        Validator::new("HIPBLASLT_VERSION", "0.10.0-abc"),
    ];
    let (results, _) = import(&file(&folder, &text), &device, "a GPU").unwrap();
    let over = take_over(&results, &mut device);
    let [(taken, tuned)] = &over.taken[..] else { panic!("{over:?}") };
    assert_eq!((*taken, tuned.solution.as_str()), (problem(8), "Gemm_Hipblaslt_TN_12345"));
    let reasons: Vec<String> = over.left.iter().map(ToString::to_string).collect();
    assert_eq!(reasons.len(), 3, "{reasons:?}");
    for (reason, parts) in reasons.iter().zip([
        ["line 5: Gemm_Rocblas_7", "no solution of this device"],
        ["line 6: Default", "PyTorch's library"],
        ["line 7: Gemm_Hipblaslt_TN_12345", "no product of this model"],
    ]) {
        assert!(parts.iter().all(|part| reason.contains(part)), "{reason}");
    }
}
