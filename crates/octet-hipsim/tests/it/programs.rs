//! hiprtc and modules: what is refused, and the cache.

use std::ffi::CString;

use crate::gpu::{
    Buffer, Kernel, compile, hipModuleGetFunction, hipModuleLaunchKernel, hipModuleLoadData, hipModuleUnload,
    in_process, is_child, use_device,
};

const SOURCE: &str = "struct Params { int* to; };
HIPSIM_KERNEL(set, 128, Params) { *p.to = VALUE; }";

fn load(code: &[u8]) -> Result<usize, i32> {
    let mut module = 0;
    match hipModuleLoadData(&raw mut module, code.as_ptr().cast()) {
        0 => Ok(module),
        error => Err(error),
    }
}

#[test]
fn errors_of_the_source_name_its_lines() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let (result, log) = compile("gfx942", "\n\nHIPSIM_KERNEL(broken, 64, Nothing) {}", &[]).unwrap_err();
    assert_eq!(result, 6);
    assert!(log.contains("test.hip:3") && log.contains("Nothing"), "{log}");
}

#[test]
fn definitions_are_passed_on() {
    octet_unrun::needs!(octet_hipsim::compiler());
    let code = compile("gfx1100", SOURCE, &["-DVALUE=5"]).unwrap();
    use_device("gfx1100");
    let module = load(&code).unwrap();
    let mut function = 0;
    let name = CString::new("set").unwrap();
    assert_eq!(hipModuleGetFunction(&raw mut function, module, name.as_ptr()), 0);
    let to = Buffer::<i32>::new(1);
    let parameters = [(&raw const to.address).cast()];
    let launched =
        hipModuleLaunchKernel(function, 1, 1, 1, 1, 1, 1, 0, 0, parameters.as_ptr(), std::ptr::null());
    assert_eq!(launched, 0);
    assert_eq!(hipModuleUnload(module), 0, "its launch is queued: it stays until that is done");
    assert_eq!(to.values(), [5]);
    assert_eq!(hipModuleUnload(module), 400, "twice");
    let missing = CString::new("get").unwrap();
    let module = load(&code).unwrap();
    assert_eq!(hipModuleGetFunction(&raw mut function, module, missing.as_ptr()), 500);
}

#[test]
fn options_are_checked() {
    let (result, log) = compile("gfx803", SOURCE, &[]).unwrap_err();
    assert_eq!(result, 5);
    assert!(log.contains("gfx803"), "{log}");
}

#[test]
fn damaged_and_foreign_code_is_refused() {
    octet_unrun::needs!(octet_hipsim::compiler());
    use_device("gfx942");
    let code = compile("gfx942", SOURCE, &["-DVALUE=1"]).unwrap();
    let mut damaged = code.clone();
    damaged[code.len() / 2] ^= 1;
    assert_eq!(load(&damaged), Err(200));
    assert_eq!(load(b"\x7fELF and so on"), Err(200));
    use_device("gfx950");
    assert_eq!(load(&code), Err(209), "no code for this device");
}

#[test]
fn without_a_compiler_the_log_says_what_to_install() {
    if !is_child() {
        let name = "programs::without_a_compiler_the_log_says_what_to_install";
        let nowhere = "/nowhere";
        in_process(name, &[("PATH", nowhere), ("OCTET_HIPSIM_CACHE", nowhere), ("OCTET_HIPSIM_CXX", "")]);
        return;
    }
    let (result, log) = compile("gfx942", SOURCE, &["-DVALUE=1"]).unwrap_err();
    assert_eq!(result, 11);
    assert!(log.contains("clang++-19") && log.contains("apt-get install"), "{log}");
}

#[test]
fn launches_are_checked() {
    octet_unrun::needs!(octet_hipsim::compiler());
    use_device("gfx942");
    let to = Buffer::<i32>::new(1);
    let kernel = Kernel::new("gfx942", "set", &SOURCE.replace("VALUE", "2"));
    assert_eq!(kernel.run(1, 128, &to.address), 0);
    assert_eq!(kernel.run(1, 192, &to.address), 9, "more threads than the kernel allows");
    assert_eq!(kernel.run(0, 64, &to.address), 9, "no blocks");
    assert_eq!(kernel.launch(0, [1, 70_000, 1], 64, &to.address), 9, "too many blocks in y");
    let large = Kernel::new("gfx942", "set", &SOURCE.replace("128", "2048").replace("VALUE", "2"));
    assert_eq!(large.run(1, 2048, &to.address), 9, "more than a device has");
    let lds = "struct Params { int* to; };
        HIPSIM_KERNEL(hoard, 64, Params) { HIPSIM_SHARED int values[20000]; values[0] = 1; *p.to = values[*p.to & 0x4000]; }";
    assert_eq!(Kernel::new("gfx942", "hoard", lds).run(1, 64, &to.address), 9, "80000 bytes of LDS");
    let to = {
        use_device("gfx950");
        Buffer::<i32>::of(&[0])
    };
    assert_eq!(Kernel::new("gfx950", "hoard", lds).run(1, 64, &to.address), 0);
    assert_eq!(to.values(), [1]);
}
