//! Modules on their way: each is read or compiled on a thread of its own, beside the others and beside the loading of
//! weights, and waited for when it is first used.

use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Instant;

use crate::GpuError;
use crate::bundle;
use crate::cache::CodeCache;
use crate::driver::{Device, LoadedCompiler, Module};
use crate::kernels::{self, Code, Source};

/// The kernels of a module, there or on their way.
pub(crate) struct Pending<K> {
    kernels: OnceLock<K>,
    task: Mutex<Option<JoinHandle<Result<K, GpuError>>>>,
}

impl<K: Send + 'static> Pending<K> {
    /// Begins to make a module, whose kernels `of` finds.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub(crate) fn start(
        device: &Device,
        code: &Code,
        source: &Source,
        of: fn(&Module) -> Result<K, GpuError>,
    ) -> Result<Self, GpuError> {
        let (device, code, source) = (device.clone(), code.clone(), source.clone());
        let task = Builder::new().name("octet-kernels".to_owned());
        let task = task.spawn(move || of(&load(&device, &code, &source)?)).map_err(GpuError::Thread)?;
        Ok(Self { kernels: OnceLock::new(), task: Mutex::new(Some(task)) })
    }

    /// The kernels themselves, when they are there.
    ///
    /// # Errors
    /// Of the compiler or the driver.
    pub(crate) fn finish(self) -> Result<K, GpuError> {
        self.get()?;
        self.kernels.into_inner().ok_or(GpuError::Panicked)
    }

    /// The kernels. The first caller waits for them.
    ///
    /// # Errors
    /// Of the compiler or the driver.
    pub(crate) fn get(&self) -> Result<&K, GpuError> {
        if let Some(kernels) = self.kernels.get() {
            return Ok(kernels);
        }
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            let kernels = task.join().map_err(|_| GpuError::Panicked)??;
            return Ok(self.kernels.get_or_init(|| kernels));
        }
        // Another caller was faster, or it failed there.
        self.kernels.get().ok_or(GpuError::Panicked)
    }
}

/// Loads a module: from the cache, or compiled and then kept there; from the bundle, if there is no compiler.
///
/// # Errors
/// The compiler's, with its log; the driver's; neither compiler nor bundle.
pub(crate) fn load(device: &Device, code: &Code, source: &Source) -> Result<Module, GpuError> {
    let begun = Instant::now();
    let (module, origin) = match &device.api().compiler {
        Ok(compiler) => load_with(device, code, source, compiler)?,
        Err(missing) => (load_bundled(device, code, source, missing)?, "made at release time"),
    };
    let (name, architecture) = (source.title(), device.architecture().name());
    let seconds = (begun.elapsed().as_secs_f64() * 100.0).round() / 100.0;
    tracing::info!("kernels {name} for {architecture}: {origin}, {seconds} s");
    Ok(module)
}

fn load_with(
    device: &Device,
    code: &Code,
    source: &Source,
    compiler: &LoadedCompiler,
) -> Result<(Module, &'static str), GpuError> {
    let api = device.api();
    let text = code.text_of(source);
    let options: Vec<String> = kernels::all_options(source, device.architecture()).collect();
    let made_by = format!("{} {:?} {:?}", api.kind.name(), compiler.version, api.version);
    let key = CodeCache::key(&[&text, &options.join(" "), &made_by]);
    if let Some(kept) = code.cache.read(&key) {
        match Module::load(device, &kept) {
            Ok(module) => return Ok((module, "from the cache")),
            Err(error) => tracing::warn!(%error, "a kernel of the cache does not load and is compiled anew"),
        }
    }
    let compiled = kernels::compile(compiler, (source, &text), &device.architecture().name(), &options)?;
    let module = Module::load(device, &compiled.code)?;
    code.cache.write(&key, &compiled.code);
    Ok((module, "compiled"))
}

fn load_bundled(
    device: &Device,
    code: &Code,
    source: &Source,
    missing: &GpuError,
) -> Result<Module, GpuError> {
    let architecture = device.architecture();
    let text = code.text_of(source);
    match bundle::find(code.bundle.as_deref(), (source, &text), architecture) {
        Ok(found) => Module::load(device, &found),
        Err(bundle) => Err(GpuError::NoCode {
            module: source.title(),
            architecture: architecture.name(),
            bundle,
            compiler: missing.to_string(),
        }),
    }
}
