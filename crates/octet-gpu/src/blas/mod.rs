//! Matrix products by AMD's hipBLASLt or NVIDIA's cuBLASLt, where one of them is found.
//!
//! They are optional as a whole: Octet's own kernels compute every product, and are better for the few rows of a decode
//! step. What a library adds is products of many rows, each by one of many solutions, among which tuning chooses.
//!
//! - `api.rs` looks the library up and gates it by its version; `description.rs` says which products it is asked for;
//!   `library.rs` holds a handle and the workspace that all products share; `product.rs` is one product: the library's
//!   objects for it, its solutions, and the call.
//!
//! # How a linear is expressed
//!
//! A BLAS counts columns first. Read so, our rows are its columns: a weight `[features, k]` is its `A`, transposed, an
//! input `[rows, k]` its `B`, and an output `[rows, features]` its `D`, the problem `TN` with `m` features and `n` rows.
//!
//! - A product only writes: `beta` is 0, and `C` is `D` because the call wants one.
//! - A bias is f32 here. hipBLASLt adds one in its epilogue and says by its list of solutions whether it does so for the
//!   types; cuBLASLt wants the output's type, so that it is not asked for products with a bias.
//! - Gate and up are one product, to which Octet's own kernel then applies the activation.
//! - FP8 is multiplied by FP8, each row of weight and input with its scale. Weights in FP8 with 16-bit inputs, scales of
//!   blocks, and 32-bit activations are not asked for.
//!
//! # In a step
//!
//! The one workspace was allocated when weights were loaded, and nothing is allocated on the device afterwards. A step
//! is recorded only after it ran once, so that whatever the library loads at a solution's first use is there by then.

mod api;
mod description;
mod library;
mod product;
#[cfg(test)]
mod tests;

pub(crate) use api::BlasApi;
pub(crate) use description::Description;
pub(crate) use library::Library;
pub(crate) use product::{Algorithm, Operands, Product, solution_name};

/// What is wanted of a BLAS library.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BlasOptions {
    /// Whether no library is looked for.
    pub is_off: bool,
    /// The library, instead of what is found in the usual places.
    pub library: Option<std::path::PathBuf>,
    /// Bytes of memory that solutions may use; 76 MiB, PyTorch's for the MI300X, unless said otherwise.
    pub workspace_bytes: Option<usize>,
}
