#![no_main]

libfuzzer_sys::fuzz_target!(
    // Loading catches the library's panics, at which libFuzzer's hook would end the process. What nobody catches still does.
    init: drop(std::panic::take_hook()),
    |bytes: &[u8]| {
        (octet_fuzz::Target::of("tokenizer").expect("a target of this name").run)(bytes);
    }
);
