//! Finding shared libraries when the program runs: by name, in known folders, with a record of every try.

use std::env;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::GpuError;

/// One try to open a library.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// File name or path as it was given to the loader.
    pub name: String,
    /// Why it did not serve.
    pub reason: String,
}

impl fmt::Display for Attempt {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: {}", self.name, self.reason)
    }
}

/// What a library is called, and where else than in the loader's path it may lie.
pub(crate) struct Wanted {
    /// For messages: `the HIP runtime`.
    pub(crate) what: &'static str,
    /// File names, the best first.
    pub(crate) names: &'static [&'static str],
    /// Variables that hold an installation's folder, such as `ROCM_PATH`.
    pub(crate) roots: &'static [&'static str],
    /// Folders that are tried last.
    pub(crate) folders: &'static [&'static str],
}

/// An open library and the path or name under which it was found.
pub(crate) struct Found {
    pub(crate) library: Library,
    pub(crate) name: String,
}

impl Wanted {
    /// Paths in the order in which they are tried.
    fn candidates(&self) -> Vec<PathBuf> {
        let roots = self.roots.iter().filter_map(env::var_os).filter(|root: &OsString| !root.is_empty());
        let folders =
            roots.map(|root| Path::new(&root).join("lib")).chain(self.folders.iter().map(PathBuf::from));
        let bare = self.names.iter().map(PathBuf::from);
        let folders: Vec<PathBuf> = folders.collect();
        bare.chain(folders.iter().flat_map(|folder| self.names.iter().map(move |name| folder.join(name))))
            .collect()
    }

    /// Opens the first candidate that the loader accepts; `path` alone, if it is given.
    ///
    /// # Errors
    /// None was accepted: the error lists every try.
    pub(crate) fn open(&self, path: Option<&Path>) -> Result<Found, GpuError> {
        let candidates = path.map_or_else(|| self.candidates(), |path| vec![path.to_path_buf()]);
        let mut attempts = Vec::new();
        for candidate in candidates {
            let name = candidate.display().to_string();
            // SAFETY: opening a library runs its initialisers. These are the runtimes of the GPU's maker, or what the
            // user names instead; nothing can be known of them beyond that they are meant to be loaded like this.
            match unsafe { Library::new(&candidate) } {
                Ok(library) => return Ok(Found { library, name }),
                Err(error) => attempts.push(Attempt { name, reason: innermost(&error) }),
            }
        }
        Err(GpuError::LibraryMissing { what: self.what, attempts })
    }
}

/// The loader's own words, without the wrapping.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut error = error;
    while let Some(source) = error.source() {
        error = source;
    }
    error.to_string()
}

/// A function of a library, by its name and the type that the caller gives it.
///
/// # Errors
/// There is no such symbol.
///
/// # Safety
/// `F` must be the type of the function of that name.
pub(crate) unsafe fn function<F: Copy>(
    found: &Found,
    what: &'static str,
    name: &'static str,
) -> Result<F, GpuError> {
    // SAFETY: the caller's promise. The pointer is copied out; whoever holds it also holds the library.
    let symbol = unsafe { found.library.get::<F>(name.as_bytes()) };
    symbol.map(|symbol| *symbol).map_err(|_| GpuError::LibraryMissing {
        what,
        attempts: vec![Attempt { name: found.name.clone(), reason: format!("it has no function {name}") }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_try_is_recorded() {
        let wanted = Wanted {
            what: "a test",
            names: &["libthere-is-no-such.so.7", "libthere-is-no-such.so.6"],
            roots: &[],
            folders: &["/nowhere/lib"],
        };
        let Err(error) = wanted.open(None) else { panic!("a library that does not exist was opened") };
        let text = error.to_string();
        for place in ["libthere-is-no-such.so.7: ", "/nowhere/lib/libthere-is-no-such.so.6: "] {
            assert!(text.contains(place), "{text}");
        }
    }

    #[test]
    fn a_library_without_the_function_is_named() {
        let wanted = Wanted { what: "the C library", names: &["libc.so.6"], roots: &[], folders: &[] };
        let found = wanted.open(None).unwrap();
        // SAFETY: `getpid` takes nothing and returns an int.
        unsafe {
            let getpid = function::<extern "C" fn() -> i32>(&found, "the C library", "getpid").unwrap();
            assert_eq!(u32::try_from(getpid()).unwrap(), std::process::id());
            let error = function::<extern "C" fn()>(&found, "the C library", "hipInit").unwrap_err();
            assert!(error.to_string().contains("libc.so.6: it has no function hipInit"), "{error}");
        }
    }
}
