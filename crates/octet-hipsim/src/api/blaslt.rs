//! hipBLASLt: matrix products.

use std::ffi::{c_char, c_int, c_void};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{current, profile, store};
use crate::blaslt::{
    BlasResult, CONTEXTS, Context, DESCRIPTIONS, Description, Element, LAYOUTS, Layout, PREFERENCES,
    Preference, Problem, Product, Status, Value, check, solutions,
};
use crate::registry::Registry;
use crate::settings::settings;
use crate::stream::{Stream, Work};

/// `hipblasLtMatmulAlgo_t`: the first word of `data` is the solution's index.
#[derive(Clone, Copy)]
#[repr(C)]
struct Algorithm {
    data: [i32; 4],
    workspace_bytes: usize,
}

/// `hipblasLtMatmulHeuristicResult_t`.
#[derive(Clone, Copy)]
#[repr(C)]
struct HeuristicResult {
    algorithm: Algorithm,
    workspace_bytes: usize,
    state: c_int,
    waves: f32,
    reserved: [c_int; 4],
}

const _: () = assert!(size_of::<Algorithm>() == 24 && size_of::<HeuristicResult>() == 56);

fn code(result: BlasResult<()>) -> c_int {
    result.map_or_else(|status| status as c_int, |()| 0)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A copy of a handle's object.
fn copy<T: Copy>(registry: &Registry<Mutex<T>>, handle: usize) -> BlasResult<T> {
    Ok(*lock(&*registry.get(handle).map_err(|_| Status::InvalidValue)?))
}

/// Gives a caller a handle for an object.
///
/// # Safety
///
/// `to` is null or can be written.
unsafe fn create<T>(registry: &Registry<T>, to: *mut usize, object: BlasResult<T>) -> c_int {
    let stored = object.and_then(|object| {
        // SAFETY: the caller's promise.
        unsafe { store(to, registry.insert(Arc::new(object))) }.map_err(|_| Status::InvalidValue)
    });
    code(stored)
}

fn destroy<T>(registry: &Registry<T>, handle: usize) -> c_int {
    code(registry.remove(handle).map(|_| ()).map_err(|_| Status::InvalidValue))
}

/// An attribute's value: a word of four bytes, or a pointer or size of eight.
///
/// # Safety
///
/// `from` is null or points to `bytes` bytes.
unsafe fn value(from: *const c_void, bytes: usize) -> BlasResult<Value> {
    // SAFETY: not null, so by the caller's promise there are as many bytes as are read.
    unsafe {
        match bytes {
            _ if from.is_null() => Err(Status::InvalidValue),
            4 => Ok(Value::Word(from.cast::<i32>().read_unaligned())),
            8 => Ok(Value::Pointer(from.cast::<usize>().read_unaligned())),
            _ => Err(Status::InvalidValue),
        }
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtCreate(to: *mut usize) -> c_int {
    let context = current().and_then(profile).map(|profile| Context { profile });
    // SAFETY: the caller passes a pointer to a result.
    unsafe { create(&CONTEXTS, to, context.map_err(|_| Status::NotInitialized)) }
}

#[unsafe(no_mangle)]
extern "C" fn hipblasLtDestroy(handle: usize) -> c_int {
    destroy(&CONTEXTS, handle)
}

/// Version 1.1.0 of ROCm 7, or 0.12.1 of ROCm 6.4.
#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtGetVersion(_handle: usize, to: *mut c_int) -> c_int {
    let version = if settings().rocm_major >= 7 { 100_100 } else { 1_201 };
    // SAFETY: the caller passes a pointer to a result.
    code(unsafe { store(to, version) }.map_err(|_| Status::InvalidValue))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtGetGitRevision(_handle: usize, to: *mut c_char) -> c_int {
    let revision = c"hipsim";
    if to.is_null() {
        return Status::InvalidValue as c_int;
    }
    // SAFETY: the caller passes a buffer, whose usual 128 bytes are more than the word has.
    unsafe { std::ptr::copy_nonoverlapping(revision.as_ptr(), to, revision.count_bytes() + 1) };
    0
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatmulDescCreate(to: *mut usize, compute: c_int, scale: c_int) -> c_int {
    // Sums and factors are f32: HIPBLAS_COMPUTE_32F and HIP_R_32F.
    let supported = compute == 2 && scale == 0;
    let description =
        if supported { Ok(Mutex::new(Description::default())) } else { Err(Status::NotSupported) };
    // SAFETY: the caller passes a pointer to a result.
    unsafe { create(&DESCRIPTIONS, to, description) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatmulDescSetAttribute(
    description: usize,
    attribute: c_int,
    from: *const c_void,
    bytes: usize,
) -> c_int {
    let set = || {
        let description = DESCRIPTIONS.get(description).map_err(|_| Status::InvalidValue)?;
        // SAFETY: the caller passes that many bytes.
        let value = unsafe { value(from, bytes) }?;
        lock(&description).set(attribute, value)
    };
    code(set())
}

#[unsafe(no_mangle)]
extern "C" fn hipblasLtMatmulDescDestroy(description: usize) -> c_int {
    destroy(&DESCRIPTIONS, description)
}

fn layout(element: c_int, rows: u64, columns: u64, leading: i64) -> BlasResult<Layout> {
    let (Ok(rows), Ok(columns), Ok(leading)) =
        (usize::try_from(rows), usize::try_from(columns), usize::try_from(leading))
    else {
        return Err(Status::InvalidValue);
    };
    Ok(Layout { element: Element::of_number(element)?, rows, columns, leading, batches: 1, batch_stride: 0 })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatrixLayoutCreate(
    to: *mut usize,
    element: c_int,
    rows: u64,
    columns: u64,
    leading: i64,
) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    unsafe { create(&LAYOUTS, to, layout(element, rows, columns, leading).map(Mutex::new)) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatrixLayoutSetAttribute(
    layout: usize,
    attribute: c_int,
    from: *const c_void,
    bytes: usize,
) -> c_int {
    let set = || {
        let layout = LAYOUTS.get(layout).map_err(|_| Status::InvalidValue)?;
        // SAFETY: the caller passes that many bytes.
        match (attribute, unsafe { value(from, bytes) }?) {
            (0, Value::Word(batches)) if batches > 0 => {
                lock(&layout).batches = usize::try_from(batches).unwrap_or(1);
            }
            (1, Value::Pointer(stride)) => lock(&layout).batch_stride = stride,
            _ => return Err(Status::InvalidValue),
        }
        Ok(())
    };
    code(set())
}

#[unsafe(no_mangle)]
extern "C" fn hipblasLtMatrixLayoutDestroy(layout: usize) -> c_int {
    destroy(&LAYOUTS, layout)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatmulPreferenceCreate(to: *mut usize) -> c_int {
    // SAFETY: the caller passes a pointer to a result.
    unsafe { create(&PREFERENCES, to, Ok(Mutex::default())) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatmulPreferenceSetAttribute(
    preference: usize,
    attribute: c_int,
    from: *const c_void,
    bytes: usize,
) -> c_int {
    let set = || {
        let preference = PREFERENCES.get(preference).map_err(|_| Status::InvalidValue)?;
        // SAFETY: the caller passes that many bytes.
        match (attribute, unsafe { value(from, bytes) }?) {
            (0, Value::Word(_)) => {}
            (1, Value::Pointer(limit)) => *lock(&preference) = Preference { workspace_bytes: limit },
            _ => return Err(Status::InvalidValue),
        }
        Ok(())
    };
    code(set())
}

#[unsafe(no_mangle)]
extern "C" fn hipblasLtMatmulPreferenceDestroy(preference: usize) -> c_int {
    destroy(&PREFERENCES, preference)
}

/// A problem from its handles, if it is supported.
fn problem(context: usize, description: usize, layouts: [usize; 4]) -> BlasResult<Problem> {
    let context = CONTEXTS.get(context).map_err(|_| Status::NotInitialized)?;
    let [a, b, c, d] = layouts.map(|layout| copy(&LAYOUTS, layout));
    let problem = Problem { description: copy(&DESCRIPTIONS, description)?, layouts: [a?, b?, c?, d?] };
    problem.is_supported(context.profile)?;
    Ok(problem)
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatmulAlgoGetHeuristic(
    context: usize,
    description: usize,
    a: usize,
    b: usize,
    c: usize,
    d: usize,
    preference: usize,
    requested: c_int,
    results: *mut HeuristicResult,
    returned: *mut c_int,
) -> c_int {
    let find = || {
        let problem = problem(context, description, [a, b, c, d])?;
        let preference = copy(&PREFERENCES, preference)?;
        let requested = usize::try_from(requested).map_err(|_| Status::InvalidValue)?;
        if results.is_null() || requested == 0 {
            return Err(Status::InvalidValue);
        }
        let mut found = solutions(&problem, preference.workspace_bytes)?;
        found.truncate(requested);
        for (index, solution) in found.iter().enumerate() {
            let algorithm =
                Algorithm { data: [solution.index, 0, 0, 0], workspace_bytes: preference.workspace_bytes };
            let result = HeuristicResult {
                algorithm,
                workspace_bytes: solution.workspace_bytes,
                state: 0,
                waves: 1.0,
                reserved: [0; 4],
            };
            // SAFETY: the caller passes room for as many results as it requests.
            unsafe { results.add(index).write_unaligned(result) };
        }
        Ok(found.len())
    };
    let found = find();
    let count = c_int::try_from(*found.as_ref().unwrap_or(&0)).unwrap_or(0);
    // SAFETY: the caller passes a pointer to a result.
    let stored = unsafe { store(returned, count) }.map_err(|_| Status::InvalidValue);
    code(found.and(stored))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn hipblasLtMatmul(
    context: usize,
    description: usize,
    alpha: *const f32,
    a: usize,
    a_layout: usize,
    b: usize,
    b_layout: usize,
    beta: *const f32,
    c: usize,
    c_layout: usize,
    d: usize,
    d_layout: usize,
    algorithm: *const Algorithm,
    workspace: usize,
    workspace_bytes: usize,
    stream: usize,
) -> c_int {
    let submit = || {
        let problem = problem(context, description, [a_layout, b_layout, c_layout, d_layout])?;
        if alpha.is_null() || beta.is_null() {
            return Err(Status::InvalidValue);
        }
        let workspace_bytes = if workspace == 0 { 0 } else { workspace_bytes };
        let solution = if algorithm.is_null() {
            let found = solutions(&problem, workspace_bytes)?;
            found.first().copied().ok_or(Status::NotSupported)?
        } else {
            // SAFETY: not null: the caller passes an algorithm.
            check(&problem, unsafe { (*algorithm).data[0] }, workspace_bytes)?
        };
        // SAFETY: not null: the caller passes factors in memory of the host.
        let (alpha, beta) = unsafe { (alpha.read_unaligned(), beta.read_unaligned()) };
        let sizes = problem.sizes()?;
        let matrices = [a, b, c, d];
        let product = Product { problem, sizes, alpha, beta, matrices, repeats: solution.repeats };
        let stream = current().and_then(|device| Stream::of_handle(stream, device));
        stream
            .and_then(|stream| stream.submit(Work::Product(Arc::new(product))))
            .map_err(|_| Status::Execution)
    };
    code(submit())
}
