//! One product: the library's objects for it, its solutions, and the call.

use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use super::Library;
use super::api::{Numbers, RowScales, type_number};
use super::description::Description;
use crate::GpuError;
use crate::driver::{Handle, Kind, Pointer, Stream};

/// 64-bit words of the larger of both libraries' algorithms.
const ALGORITHM_WORDS: usize = 8;

/// A solution as the library numbers or encodes it. Both libraries mean it to be kept and given back, to the same build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Algorithm([u64; ALGORITHM_WORDS]);

/// Addresses of a product's operands on the device; 0 is none.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Operands {
    pub(crate) weight: u64,
    pub(crate) input: u64,
    pub(crate) output: u64,
    /// `[features]`, f32.
    pub(crate) bias: u64,
    /// `[features]`, f32, if the product has scales.
    pub(crate) weight_scales: u64,
    /// `[rows]`, f32, if the product has scales.
    pub(crate) input_scales: u64,
}

/// The name of a solution in results files: TunableOp's for hipBLASLt, the encoding for cuBLASLt.
pub(crate) fn solution_name(kind: Kind, algorithm: &Algorithm) -> String {
    match kind {
        // The first 32 bits are the index.
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        Kind::Hip => format!("Gemm_Hipblaslt_{}", (algorithm.0[0] as u32).cast_signed()),
        Kind::Cuda => {
            let used = algorithm.0.iter().rposition(|&word| word != 0).map_or(1, |last| last + 1);
            let words: Vec<String> = algorithm.0[..used].iter().map(|word| format!("{word:x}")).collect();
            format!("Gemm_Cublaslt_{}", words.join("_"))
        }
    }
}

/// An object of the library, given back when it is dropped.
struct Object {
    handle: Pointer,
    destroy: unsafe extern "C" fn(Handle) -> c_int,
}

impl Drop for Object {
    fn drop(&mut self) {
        // SAFETY: created by the library whose function this is, destroyed once.
        unsafe { (self.destroy)(self.handle.0) };
    }
}

/// The matrices that depend on the number of rows.
struct Layouts {
    rows: usize,
    input: Object,
    output: Object,
}

/// A product with the library's objects for it.
pub(crate) struct Product {
    description: Description,
    scales: Option<RowScales>,
    operation: Object,
    weight: Object,
    /// Those of the last call: the products of a step have the same number of rows.
    layouts: Option<Layouts>,
    // Last: what is above goes before its library.
    library: Arc<Library>,
}

impl Product {
    /// Describes a product to the library; nothing if this version cannot be told of it.
    ///
    /// # Errors
    /// The library does not know the types.
    pub(crate) fn new(library: &Arc<Library>, description: Description) -> Result<Option<Self>, GpuError> {
        let scales = if description.has_scales { library.version.row_scales() } else { None };
        if description.has_scales && scales.is_none() {
            return Ok(None);
        }
        let numbers = Numbers::of(library.api.kind);
        let operation = operation(library, numbers)?;
        let weight = layout(
            library,
            type_number(description.operand),
            description.k,
            description.features,
            description.k,
        )?;
        let product =
            Self { library: Arc::clone(library), description, scales, operation, weight, layouts: None };
        product.set(numbers.transpose_a, numbers.transposed)?;
        // The search for solutions wants a pointer, but follows only the one of the call itself.
        let some_address = library.workspace.address();
        if description.has_bias {
            product.set(numbers.epilogue, Numbers::BIAS)?;
            product.set(numbers.bias_type, type_number(octet_backend::DataType::F32))?;
            product.set(numbers.bias_pointer, some_address)?;
        }
        if let Some(scales) = scales {
            product.set_scales(scales, [some_address; 2])?;
            if let RowScales::Mode { modes, .. } = scales {
                modes.into_iter().try_for_each(|mode| product.set(mode, RowScales::OUTER_VECTOR))?;
            }
        }
        Ok(Some(product))
    }

    /// Sets an attribute of the operation: a number of 32 bits, or an address.
    fn set<T: Copy>(&self, attribute: c_int, value: T) -> Result<(), GpuError> {
        let api = &self.library.api;
        // SAFETY: the operation is ours, and the pointer is to a local value of the size that is said.
        let status = unsafe {
            (api.functions.set_operation)(
                self.operation.handle.0,
                attribute,
                (&raw const value).cast(),
                size_of::<T>(),
            )
        };
        api.check("set_operation", status)
    }

    fn set_scales(&self, scales: RowScales, addresses: [u64; 2]) -> Result<(), GpuError> {
        let mut pairs = scales.pointers().into_iter().zip(addresses);
        pairs.try_for_each(|(attribute, address)| self.set(attribute, address))
    }

    fn layouts(&self, rows: usize) -> Result<Layouts, GpuError> {
        let Description { features, k, output_stride, operand, output, .. } = self.description;
        Ok(Layouts {
            rows,
            input: layout(&self.library, type_number(operand), k, rows, k)?,
            output: layout(&self.library, type_number(output), features, rows, output_stride)?,
        })
    }

    /// At most `most` solutions for this number of rows, those that the library thinks fastest first. hipBLASLt that is asked
    /// for more than it has measured appends all others that can compute the product.
    ///
    /// # Errors
    /// The library's. An empty list is not an error.
    pub(crate) fn solutions(&self, rows: usize, most: usize) -> Result<Vec<Algorithm>, GpuError> {
        let api = &self.library.api;
        let numbers = Numbers::of(api.kind);
        let layouts = self.layouts(rows)?;
        let preference = preference(&self.library)?;
        let mut results = vec![0u64; most * numbers.result_words];
        let mut found: c_int = 0;
        let (input, output) = (layouts.input.handle.0, layouts.output.handle.0);
        // SAFETY: all handles are ours; the buffer has room for as many results as are asked for.
        let status = unsafe {
            (api.functions.heuristic)(
                self.library.handle(),
                self.operation.handle.0,
                self.weight.handle.0,
                input,
                output,
                output,
                preference.handle.0,
                c_int::try_from(most).unwrap_or(c_int::MAX),
                results.as_mut_ptr().cast(),
                &raw mut found,
            )
        };
        // Not supported, or nothing found: both libraries say so by a status.
        if status != 0 {
            return Ok(Vec::new());
        }
        let found = usize::try_from(found).unwrap_or(0).min(most);
        let mut algorithms = Vec::with_capacity(found);
        for result in results.chunks_exact(numbers.result_words).take(found) {
            let algorithm = numbers.algorithm(result);
            let is_usable = numbers.is_usable(result, self.library.workspace.bytes());
            if is_usable && !algorithms.contains(&algorithm) {
                algorithms.push(algorithm);
            }
        }
        Ok(algorithms)
    }

    /// Starts the product of `rows` rows with a solution.
    ///
    /// # Errors
    /// The solution does not compute this number of rows, or the library failed.
    ///
    /// # Safety
    /// The operands must be on this device, of the shapes and types of the description, and valid until it has run.
    pub(crate) unsafe fn multiply(
        &mut self,
        stream: &Stream,
        rows: usize,
        operands: &Operands,
        algorithm: &Algorithm,
    ) -> Result<(), GpuError> {
        if self.description.has_bias {
            self.set(Numbers::of(self.library.api.kind).bias_pointer, operands.bias)?;
        }
        if let Some(scales) = self.scales {
            self.set_scales(scales, [operands.weight_scales, operands.input_scales])?;
        }
        let layouts = match self.layouts.take().filter(|layouts| layouts.rows == rows) {
            Some(layouts) => layouts,
            None => self.layouts(rows)?,
        };
        let library = &self.library;
        let (alpha, beta) = (1.0f32, 0.0f32);
        let (input_layout, output_layout) = (layouts.input.handle.0, layouts.output.handle.0);
        let output = operands.output as Handle;
        // SAFETY: the caller's promise for the operands; factors are read before the call returns; the workspace is
        // this stream's alone.
        let status = unsafe {
            (library.api.functions.multiply)(
                library.handle(),
                self.operation.handle.0,
                (&raw const alpha).cast(),
                operands.weight as Handle,
                self.weight.handle.0,
                operands.input as Handle,
                input_layout,
                (&raw const beta).cast(),
                output,
                output_layout,
                output,
                output_layout,
                algorithm.0.as_ptr().cast::<c_void>(),
                library.workspace.address() as Handle,
                library.workspace.bytes(),
                stream.handle(),
            )
        };
        self.layouts = Some(layouts);
        self.library.api.check("multiply", status)
    }
}

impl Numbers {
    /// The algorithm at the front of a result.
    fn algorithm(&self, result: &[u64]) -> Algorithm {
        let mut words = [0; ALGORITHM_WORDS];
        words[..self.algorithm_words].copy_from_slice(&result[..self.algorithm_words]);
        Algorithm(words)
    }

    /// Whether the words behind the algorithm (bytes of workspace, then a status) let it be used.
    fn is_usable(&self, result: &[u64], workspace_bytes: usize) -> bool {
        let needed = usize::try_from(result[self.algorithm_words]).unwrap_or(usize::MAX);
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is meant")]
        let status = result[self.algorithm_words + 1] as u32;
        needed <= workspace_bytes && status == 0
    }
}

fn operation(library: &Library, numbers: Numbers) -> Result<Object, GpuError> {
    let functions = &library.api.functions;
    let mut handle = ptr::null_mut();
    let factors = type_number(octet_backend::DataType::F32);
    // SAFETY: the pointer is to a local variable.
    let status = unsafe { (functions.create_operation)(&raw mut handle, numbers.compute_f32, factors) };
    library.api.check("create_operation", status)?;
    Ok(Object { handle: Pointer(handle), destroy: functions.destroy_operation })
}

/// A matrix of `rows` and `columns` as a BLAS counts them: `stride` elements from one column to the next.
fn layout(
    library: &Library,
    element: c_int,
    rows: usize,
    columns: usize,
    stride: usize,
) -> Result<Object, GpuError> {
    let functions = &library.api.functions;
    let mut handle = ptr::null_mut();
    let stride = i64::try_from(stride).unwrap_or(i64::MAX);
    // SAFETY: the pointer is to a local variable.
    let status =
        unsafe { (functions.create_layout)(&raw mut handle, element, rows as u64, columns as u64, stride) };
    library.api.check("create_layout", status)?;
    Ok(Object { handle: Pointer(handle), destroy: functions.destroy_layout })
}

/// A wish for solutions that the workspace is enough for.
fn preference(library: &Library) -> Result<Object, GpuError> {
    let functions = &library.api.functions;
    let mut handle = ptr::null_mut();
    // SAFETY: the pointer is to a local variable.
    let status = unsafe { (functions.create_preference)(&raw mut handle) };
    library.api.check("create_preference", status)?;
    let object = Object { handle: Pointer(handle), destroy: functions.destroy_preference };
    let bytes = library.workspace.bytes() as u64;
    // SAFETY: the object is ours, and the pointer is to a local value of the size that is said.
    let status = unsafe {
        (functions.set_preference)(
            object.handle.0,
            Numbers::MAX_WORKSPACE_BYTES,
            (&raw const bytes).cast(),
            size_of::<u64>(),
        )
    };
    library.api.check("set_preference", status)?;
    Ok(object)
}
