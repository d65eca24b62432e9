#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    (octet_fuzz::Target::of("request").expect("a target of this name").run)(bytes);
});
