//! What there is on this machine: every runtime, its devices, and what is missing.

use std::path::Path;

use crate::blas::BlasApi;
use crate::{DeviceReport, Kind, Runtime};

/// What was found of one runtime.
#[derive(Clone, Debug)]
pub struct RuntimeReport {
    /// Which runtime.
    pub kind: Kind,
    /// Version and place, or why it cannot be used.
    pub runtime: Result<String, String>,
    /// The BLAS library beside it, which is optional: where it was found, or what was looked for.
    pub blas: Result<String, String>,
    /// Its devices, or why they cannot be listed.
    pub devices: Result<Vec<DeviceReport>, String>,
}

/// Looks at both runtimes; `path` stands for HIP's libraries if it is given.
#[must_use]
pub fn survey(path: Option<&Path>) -> Vec<RuntimeReport> {
    [(Kind::Hip, path), (Kind::Cuda, None)].map(|(kind, path)| report(kind, path)).into()
}

fn report(kind: Kind, path: Option<&Path>) -> RuntimeReport {
    match Runtime::load(kind, path) {
        Ok(runtime) => {
            let blas = BlasApi::load(kind, path).map(|blas| blas.describe());
            RuntimeReport {
                kind,
                runtime: Ok(runtime.describe()),
                blas: blas.map_err(|error| error.to_string()),
                devices: runtime.devices().map_err(|error| error.to_string()),
            }
        }
        Err(error) => RuntimeReport {
            kind,
            runtime: Err(error.to_string()),
            blas: Err("without the runtime it is not looked for".to_owned()),
            devices: Ok(Vec::new()),
        },
    }
}
