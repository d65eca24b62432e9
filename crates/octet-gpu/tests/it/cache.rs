//! The cache of compiled kernels as a backend uses it.

use std::fs;

use octet_gpu::{GpuBackend, GpuOptions};

use crate::simulator::runtime;

#[test]
fn damaged_entries_are_made_anew() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let folder = tempfile::tempdir().unwrap();
    let options = GpuOptions { kernel_cache: Some(folder.path().to_path_buf()), ..GpuOptions::default() };
    let open = || GpuBackend::new(runtime().open(0).unwrap(), &options).unwrap();
    drop(open());
    let entries = || {
        let paths = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
        let mut paths: Vec<_> = paths.collect();
        paths.sort();
        paths
    };
    let before = entries();
    assert_eq!(before.len(), 1, "the kernels of rows are kept: {before:?}");
    let whole = fs::read(&before[0]).unwrap();
    // Whole: used as it is.
    let written = fs::metadata(&before[0]).unwrap().modified().unwrap();
    drop(open());
    assert_eq!(fs::metadata(&before[0]).unwrap().modified().unwrap(), written);
    // Damaged: compiled again, and kept again.
    let mut damaged = whole.clone();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 0x10;
    fs::write(&before[0], damaged).unwrap();
    drop(open());
    assert_eq!(entries(), before);
    assert_eq!(fs::read(&before[0]).unwrap().len(), whole.len());
    assert!(fs::metadata(&before[0]).unwrap().modified().unwrap() > written);
}

#[test]
fn devices_are_listed_and_missing_ones_refused() {
    let runtime = runtime();
    let devices = runtime.devices().unwrap();
    let names: Vec<&str> = devices.iter().map(|device| device.architecture.as_str()).collect();
    assert_eq!(names, ["gfx942", "gfx1100", "gfx950", "gfx1201", "gfx90a"]);
    assert!(
        devices.iter().all(|device| device.refusal.is_none() && device.total_bytes > 0 && device.units > 0)
    );
    let error = runtime.open(5).unwrap_err().to_string();
    assert!(error.contains("no hip device 5: 5 found"), "{error}");
}
