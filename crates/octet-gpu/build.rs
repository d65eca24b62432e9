//! Puts kernels that were made at release time into the program, if `OCTET_KERNEL_BUNDLE` names a file of them.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    println!("cargo::rerun-if-env-changed=OCTET_KERNEL_BUNDLE");
    let target = PathBuf::from(env::var_os("OUT_DIR").expect("Cargo sets it")).join("kernels.bundle");
    let bundle = match env::var_os("OCTET_KERNEL_BUNDLE").filter(|path| !path.is_empty()) {
        None => Vec::new(),
        Some(path) => {
            println!("cargo::rerun-if-changed={}", path.display());
            fs::read(&path).unwrap_or_else(|error| {
                panic!("OCTET_KERNEL_BUNDLE: {} cannot be read: {error}", path.display())
            })
        }
    };
    fs::write(target, bundle).expect("Cargo's folder can be written");
}
