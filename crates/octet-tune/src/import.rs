//! Takes over what PyTorch's TunableOp has found. Its solutions are numbers of one build of a library, so this is done
//! only when asked for, and only where the device vouches for the same libraries.

use std::io;
use std::path::Path;

use octet_backend::{GemmDevice, GemmProblem, Validator};

use crate::error::ImportError;
use crate::file;
use crate::results::{Mismatch, Note, PYTORCH_VERSION, Parsed, Results, TunedGemm};

/// Solution that PyTorch writes if its library's own choice was the best: no solution of ours.
const LIBRARY_DEFAULT: &str = "Default";

/// What a device took over.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TakenOver {
    /// Results that it uses from now on, by the problem for which it does.
    pub taken: Vec<(GemmProblem, TunedGemm)>,
    /// Lines that it cannot use, and why.
    pub left: Vec<Note>,
}

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
    if let Some(mismatch) = mismatch(&libraries, &here) {
        return Err(ImportError::Mismatch { path: path.to_owned(), mismatch });
    }
    Ok((parsed.results, parsed.notes))
}

/// The first thing that the device vouches for and the file does not have so. A device may know several ways to write
/// one version, of which the file has one. What the file says of other libraries does not matter: the device has none of
/// their solutions.
fn mismatch(file: &[Validator], device: &[Validator]) -> Option<Mismatch> {
    device.iter().find_map(|here| {
        let is_known = |there: &&Validator| device.contains(there);
        let mut there = file.iter().filter(|there| there.key == here.key).peekable();
        let is_missing = there.peek().is_none();
        let other = there.find(|there| !is_known(there));
        (is_missing || other.is_some()).then(|| Mismatch {
            key: here.key.clone(),
            file: other.map(|other| other.value.clone()),
            device: Some(here.value.clone()),
        })
    })
}

/// Chooses PyTorch's solutions on a device, as far as it has both product and solution. PyTorch knows no product that
/// combines gate and up projection: what it found for their plain product holds for that too.
pub fn take_over(results: &Results, device: &mut dyn GemmDevice) -> TakenOver {
    let mut over = TakenOver::default();
    for (problem, tuned) in results.iter() {
        let mut is_here = false;
        let before = over.taken.len();
        for problem in [*problem, GemmProblem { is_gated: true, ..*problem }] {
            if device.solutions(&problem).is_empty() {
                continue;
            }
            is_here = true;
            if tuned.solution != LIBRARY_DEFAULT && device.choose(&problem, &tuned.solution) {
                over.taken.push((problem, tuned.clone()));
            }
        }
        if over.taken.len() == before {
            let reason = match (is_here, tuned.solution.as_str()) {
                (false, _) => "no product of this model has these sizes and types",
                (true, LIBRARY_DEFAULT) => "it is the choice of PyTorch's library, which is not asked here",
                (true, _) => "it is no solution of this device for it",
            };
            let text = format!("{} for {problem}: {reason}", tuned.solution);
            over.left.push(Note { line: tuned.line.unwrap_or(0), text });
        }
    }
    over
}
