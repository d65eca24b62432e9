//! Devices, their properties and their memory.

use std::ffi::{CStr, c_void};

use crate::gpu::{
    Buffer, device, hipFree, hipGetDeviceCount, hipGetDevicePropertiesR0600, hipGetLastError, hipHostFree,
    hipHostMalloc, hipMalloc, hipMemGetInfo, hipMemcpy, hipSetDevice, in_process, is_child, use_device,
};

fn properties(index: i32) -> Vec<u8> {
    let mut bytes = vec![0_u8; 1472];
    assert_eq!(hipGetDevicePropertiesR0600(bytes.as_mut_ptr(), index), 0);
    bytes
}

fn text(bytes: &[u8]) -> &str {
    CStr::from_bytes_until_nul(bytes).unwrap().to_str().unwrap()
}

fn number(bytes: &[u8], offset: usize) -> i32 {
    i32::from_le_bytes(bytes[offset..offset + 4].try_into().unwrap())
}

#[test]
fn properties_lie_where_rocm_6_and_7_have_them() {
    for (index, (arch, wave, lds, units)) in [
        ("gfx942:sramecc+:xnack-", 64, 65_536, 304),
        ("gfx1100", 32, 65_536, 96),
        ("gfx950:sramecc+:xnack-", 64, 163_840, 256),
        ("gfx1201", 32, 65_536, 64),
        ("gfx90a:sramecc+:xnack-", 64, 65_536, 104),
    ]
    .into_iter()
    .enumerate()
    {
        let found = properties(i32::try_from(index).unwrap());
        assert_eq!(text(&found[1160..]), arch);
        assert!(text(&found).starts_with("AMD "));
        assert_eq!((number(&found, 308), number(&found, 296), number(&found, 388)), (wave, lds, units));
        assert_eq!(number(&found, 320), 1024, "threads of a block");
        let total = u64::from_le_bytes(found[288..296].try_into().unwrap());
        assert_eq!(total, 1 << 30);
    }
}

#[test]
fn devices_are_chosen_for_a_thread() {
    let mut count = 0;
    assert_eq!(hipGetDeviceCount(&raw mut count), 0);
    assert_eq!(count, 5);
    assert_eq!(hipSetDevice(5), 101);
    assert_eq!(hipGetLastError(), 101);
    assert_eq!(hipGetLastError(), 0, "it is forgotten when it was asked for");
    use_device("gfx1100");
    // Another thread has a device of its own.
    let elsewhere = std::thread::spawn(|| {
        let buffer = Buffer::<u8>::new(1 << 20);
        assert_eq!(hipFree(buffer.address.cast()), 0);
    });
    elsewhere.join().unwrap();
    assert_eq!(device("gfx1100"), 1);
}

#[test]
fn visible_devices_are_those_of_the_environment() {
    let name = "devices::visible_devices_are_those_of_the_environment";
    if !is_child() {
        in_process(name, &[("HIP_VISIBLE_DEVICES", "3,1")]);
        return;
    }
    let mut count = 0;
    assert_eq!(hipGetDeviceCount(&raw mut count), 0);
    assert_eq!(count, 2);
    assert_eq!(text(&properties(0)[1160..]), "gfx1201");
    assert_eq!(text(&properties(1)[1160..]), "gfx1100");
}

#[test]
fn without_visible_devices_there_are_none() {
    if !is_child() {
        in_process("devices::without_visible_devices_there_are_none", &[("HIP_VISIBLE_DEVICES", "")]);
        return;
    }
    let mut count = 7;
    assert_eq!(hipGetDeviceCount(&raw mut count), 100);
    assert_eq!(count, 0);
    let mut address = std::ptr::null_mut();
    assert_eq!(hipMalloc(&raw mut address, 16), 100);
}

#[test]
fn memory_is_limited_and_comes_back() {
    let name = "devices::memory_is_limited_and_comes_back";
    if !is_child() {
        in_process(name, &[("OCTET_HIPSIM_MEMORY_BYTES", "1000000")]);
        return;
    }
    let (mut free, mut total) = (0, 0);
    let first = Buffer::<u8>::new(600_000);
    let mut second: *mut c_void = std::ptr::null_mut();
    assert_eq!(hipMalloc(&raw mut second, 600_000), 2, "out of memory");
    assert!(second.is_null());
    assert_eq!(hipMemGetInfo(&raw mut free, &raw mut total), 0);
    assert_eq!((free, total), (400_000, 1_000_000));
    assert_eq!(hipFree(first.address.cast()), 0);
    assert_eq!(hipMalloc(&raw mut second, 600_000), 0);
    assert_eq!(hipFree(first.address.cast()), 1, "freed twice");
    // Pinned memory is the host's.
    let mut pinned: *mut c_void = std::ptr::null_mut();
    assert_eq!(hipHostMalloc(&raw mut pinned, 600_000, 0), 0);
    assert_eq!(hipFree(pinned), 1, "not of a device");
    assert_eq!(hipHostFree(pinned), 0);
}

#[test]
fn copies_stay_inside_of_allocations() {
    let buffer = Buffer::<u8>::of(&[7; 100]);
    let (address, mut host) = (buffer.address.cast::<c_void>(), [0_u8; 200]);
    let to_host = |bytes, offset: usize| {
        hipMemcpy(host.as_mut_ptr().cast(), address.wrapping_byte_add(offset), bytes, 2)
    };
    let mut to_host = to_host;
    assert_eq!(to_host(100, 0), 0);
    assert_eq!(to_host(101, 0), 1, "longer than the allocation");
    assert_eq!(to_host(100, 1), 1, "over its end");
    let from = [1_u8; 16];
    assert_eq!(hipMemcpy(address, from.as_ptr().cast(), 16, 2), 1, "the wrong direction");
    assert_eq!(hipMemcpy(std::ptr::null_mut(), from.as_ptr().cast(), 16, 1), 1, "null");
    assert_eq!(hipMemcpy(address, from.as_ptr().cast(), 16, 9), 1, "no kind");
    assert_eq!(hipFree(address), 0);
    assert_eq!(hipMemcpy(address, from.as_ptr().cast(), 16, 1), 1, "freed");
    assert_eq!(host[..101], [[7; 100].as_slice(), &[0]].concat());
}
