//! Takes over what PyTorch's TunableOp has found. Its solutions are numbers of one build of a library, so this is done
//! only when asked for, and only where the device vouches for the same libraries.

use std::io;
use std::path::Path;

use octet_backend::{GemmDevice, Validator};

use crate::error::ImportError;
use crate::file;
use crate::results::{Note, PYTORCH_VERSION, Parsed, Results, first_mismatch};

/// Reads a file of PyTorch's for a device. `device_name` is for the error. Lines that cannot be used are noted and
/// skipped.
///
/// # Errors
/// The file is none of PyTorch's, or its solutions belong to other libraries than this device's.
pub fn import(
    path: &Path,
    device: &dyn GemmDevice,
    device_name: &str,
) -> Result<(Results, Vec<Note>), ImportError> {
    let bytes = file::read(path).and_then(|bytes| bytes.ok_or_else(|| io::ErrorKind::NotFound.into()));
    let bytes = bytes.map_err(|source| ImportError::Read { path: path.to_owned(), source })?;
    let parsed = Parsed::new(&bytes);
    // The version of PyTorch itself does not matter: what it numbers are the libraries' solutions.
    let (pytorch, libraries): (Vec<Validator>, Vec<Validator>) =
        parsed.validators.into_iter().partition(|validator| validator.key == PYTORCH_VERSION);
    if pytorch.is_empty() {
        return Err(ImportError::NotPyTorch { path: path.to_owned() });
    }
    let here = device.pytorch_validators();
    if here.is_empty() {
        let named = libraries.iter().map(|validator| format!("{} {}", validator.key, validator.value));
        return Err(ImportError::OtherLibraries {
            path: path.to_owned(),
            libraries: named.collect::<Vec<_>>().join(", "),
            device: device_name.to_owned(),
        });
    }
    if let Some(mismatch) = first_mismatch(&libraries, &here) {
        return Err(ImportError::Mismatch { path: path.to_owned(), mismatch });
    }
    Ok((parsed.results, parsed.notes))
}
