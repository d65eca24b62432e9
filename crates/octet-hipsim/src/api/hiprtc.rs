//! hiprtc: programs from source.

use std::ffi::{CStr, c_char, c_int};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::store;
use crate::compile::{CompileError, compile};
use crate::registry::Registry;
use crate::settings::settings;

/// Results of hiprtc: `hiprtcResult`.
const SUCCESS: c_int = 0;
const INVALID_INPUT: c_int = 3;
const INVALID_PROGRAM: c_int = 4;
const INVALID_OPTION: c_int = 5;
const COMPILATION: c_int = 6;
const INTERNAL: c_int = 11;

static PROGRAMS: Registry<Program> = Registry::new();

/// A source, and what became of it.
struct Program {
    source: String,
    name: String,
    outcome: Mutex<Outcome>,
}

#[derive(Default)]
struct Outcome {
    code: Vec<u8>,
    log: String,
}

impl Program {
    fn outcome(&self) -> MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A text of C; `None` if it is null.
///
/// # Safety
///
/// `text` is null or ends with a zero.
unsafe fn text(text: *const c_char) -> Option<String> {
    // SAFETY: not null, so that by the caller's promise it ends with a zero.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcVersion(major: *mut c_int, minor: *mut c_int) -> c_int {
    if settings().without_compiler {
        return INTERNAL;
    }
    let version = if settings().rocm_major == 6 { (6, 4) } else { (7, 1) };
    // SAFETY: the caller passes pointers to results.
    let stored = unsafe { store(major, version.0).and(store(minor, version.1)) };
    if stored.is_ok() { SUCCESS } else { INVALID_INPUT }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcCreateProgram(
    to: *mut usize,
    source: *const c_char,
    name: *const c_char,
    header_count: c_int,
    _headers: *const *const c_char,
    _header_names: *const *const c_char,
) -> c_int {
    // SAFETY: the caller passes texts that end with a zero.
    let (source, name) = unsafe { (text(source), text(name)) };
    // Octet expands its includes itself.
    let Some(source) = source.filter(|_| header_count == 0) else { return INVALID_INPUT };
    let name = name.unwrap_or_else(|| "program".to_owned());
    let program = PROGRAMS.insert(Arc::new(Program { source, name, outcome: Mutex::default() }));
    // SAFETY: the caller passes a pointer to a result.
    if unsafe { store(to, program) }.is_ok() { SUCCESS } else { INVALID_INPUT }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcCompileProgram(
    program: usize,
    option_count: c_int,
    options: *const *const c_char,
) -> c_int {
    let Ok(program) = PROGRAMS.get(program) else { return INVALID_PROGRAM };
    let count = usize::try_from(option_count).unwrap_or(0);
    if count > 0 && options.is_null() {
        return INVALID_INPUT;
    }
    // SAFETY: the caller passes as many texts that end with a zero.
    let options: Vec<String> = (0..count).filter_map(|index| unsafe { text(*options.add(index)) }).collect();
    let (outcome, result) = match compile(&program.source, &program.name, &options) {
        Ok(compiled) => (Outcome { code: compiled.code, log: compiled.log }, SUCCESS),
        Err(CompileError::Option(log)) => (Outcome { code: Vec::new(), log }, INVALID_OPTION),
        Err(CompileError::Compiler(log)) => (Outcome { code: Vec::new(), log }, INTERNAL),
        Err(CompileError::Source(log)) => (Outcome { code: Vec::new(), log }, COMPILATION),
    };
    *program.outcome() = outcome;
    result
}

/// Gives the size of something of a program to a caller.
///
/// # Safety
///
/// `to` is null or can be written.
unsafe fn size(program: usize, to: *mut usize, size: impl FnOnce(&Outcome) -> usize) -> c_int {
    let Ok(program) = PROGRAMS.get(program) else { return INVALID_PROGRAM };
    let size = size(&program.outcome());
    // SAFETY: the caller's promise.
    if unsafe { store(to, size) }.is_ok() { SUCCESS } else { INVALID_INPUT }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcGetCodeSize(program: usize, to: *mut usize) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    unsafe { size(program, to, |outcome| outcome.code.len()) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcGetProgramLogSize(program: usize, to: *mut usize) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    unsafe { size(program, to, |outcome| outcome.log.len() + 1) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcGetCode(program: usize, to: *mut c_char) -> c_int {
    let Ok(program) = PROGRAMS.get(program) else { return INVALID_PROGRAM };
    if to.is_null() {
        return INVALID_INPUT;
    }
    let outcome = program.outcome();
    // SAFETY: the caller passes a buffer of the size that hiprtcGetCodeSize gave.
    unsafe { std::ptr::copy_nonoverlapping(outcome.code.as_ptr(), to.cast(), outcome.code.len()) };
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcGetProgramLog(program: usize, to: *mut c_char) -> c_int {
    let Ok(program) = PROGRAMS.get(program) else { return INVALID_PROGRAM };
    if to.is_null() {
        return INVALID_INPUT;
    }
    let outcome = program.outcome();
    // SAFETY: the caller passes a buffer of the size that hiprtcGetProgramLogSize gave, one more than the log.
    unsafe {
        std::ptr::copy_nonoverlapping(outcome.log.as_ptr(), to.cast(), outcome.log.len());
        *to.add(outcome.log.len()) = 0;
    }
    SUCCESS
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hiprtcDestroyProgram(program: *mut usize) -> c_int {
    if program.is_null() {
        return INVALID_PROGRAM;
    }
    // SAFETY: not null; the caller passes a pointer to its handle, which is cleared.
    let handle = unsafe { std::mem::take(&mut *program) };
    if PROGRAMS.remove(handle).is_ok() { SUCCESS } else { INVALID_PROGRAM }
}

#[unsafe(no_mangle)]
extern "C" fn hiprtcGetErrorString(result: c_int) -> *const c_char {
    let text = match result {
        SUCCESS => c"HIPRTC_SUCCESS",
        INVALID_INPUT => c"HIPRTC_ERROR_INVALID_INPUT",
        INVALID_PROGRAM => c"HIPRTC_ERROR_INVALID_PROGRAM",
        INVALID_OPTION => c"HIPRTC_ERROR_INVALID_OPTION",
        COMPILATION => c"HIPRTC_ERROR_COMPILATION",
        INTERNAL => c"HIPRTC_ERROR_INTERNAL_ERROR",
        _ => c"Unknown HIPRTC error",
    };
    text.as_ptr()
}
