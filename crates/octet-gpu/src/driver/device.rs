//! Devices: how many, which, and what they are.

use std::ffi::{c_char, c_int};
use std::path::Path;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use octet_backend::DeviceMemory;

use crate::architecture::Architecture;
use crate::driver::api::{Api, Handle, Kind, Special};
use crate::{GpuError, driver};

/// A runtime that was found and loaded.
#[derive(Clone)]
pub struct Runtime {
    pub(crate) api: Arc<Api>,
}

/// What is known of one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// Its number in this runtime.
    pub index: usize,
    /// Its maker's name for it.
    pub name: String,
    /// `gfx942`, `sm_90`.
    pub architecture: String,
    /// The same with its features, as AMD's libraries name it: `gfx942:sramecc+:xnack-`.
    pub target: String,
    /// Compute units or multiprocessors.
    pub units: usize,
    /// Bytes of memory.
    pub total_bytes: usize,
    /// Whether Octet has kernels for it; if not, why.
    pub refusal: Option<String>,
}

impl std::fmt::Debug for Runtime {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{} {:?} from {:?}", self.api.kind.name(), self.api.version, self.api.found)
    }
}

impl Runtime {
    /// Loads a runtime, from `path` or from where it usually lies.
    ///
    /// # Errors
    /// It is not there, or too old.
    pub fn load(kind: Kind, path: Option<&Path>) -> Result<Self, GpuError> {
        Ok(Self { api: Arc::new(Api::load(kind, path)?) })
    }

    /// Whose runtime it is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.api.kind
    }

    /// Its version and where it was found, for people.
    #[must_use]
    pub fn describe(&self) -> String {
        let Api { kind, version, compiler, found, .. } = &*self.api;
        let (runtime, name) = match kind {
            Kind::Hip => ("HIP", "hiprtc"),
            Kind::Cuda => ("CUDA", "NVRTC"),
        };
        let compiler = match compiler {
            Ok(compiler) => {
                let (major, minor) = compiler.version;
                format!("{name} {major}.{minor} from {}", compiler.found)
            }
            Err(error) => format!("no {name} ({error})"),
        };
        format!("{runtime} {}.{} from {found}, {compiler}", version.0, version.1)
    }

    /// How many devices it shows.
    ///
    /// # Errors
    /// Of the driver.
    pub fn device_count(&self) -> Result<usize, GpuError> {
        /// `hipErrorNoDevice` and `CUDA_ERROR_NO_DEVICE`.
        const NO_DEVICE: c_int = 100;
        let mut count = 0;
        // SAFETY: the pointer is to a local integer.
        let status = unsafe { (self.api.functions.device_count)(&raw mut count) };
        if status == NO_DEVICE {
            return Ok(0);
        }
        self.api.check("device_count", status)?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// What each device is.
    ///
    /// # Errors
    /// Of the driver.
    pub fn devices(&self) -> Result<Vec<DeviceReport>, GpuError> {
        (0..self.device_count()?).map(|index| self.report(index)).collect()
    }

    fn report(&self, index: usize) -> Result<DeviceReport, GpuError> {
        let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        let mut report = match self.api.special {
            Special::Hip { properties, .. } => self.hip_report(ordinal, properties)?,
            Special::Cuda { .. } => self.cuda_report(ordinal)?,
        };
        report.refusal = Architecture::parse(&report.architecture).err().map(|error| error.to_string());
        report.index = index;
        Ok(report)
    }

    /// Reads `hipDeviceProp_t` as HIP 6 and 7 lay it out, `R0600`, 1472 bytes.
    fn hip_report(
        &self,
        ordinal: c_int,
        properties: unsafe extern "C" fn(*mut std::ffi::c_void, c_int) -> c_int,
    ) -> Result<DeviceReport, GpuError> {
        // Twice what it has, for versions that append.
        let mut bytes = vec![0u8; 4096];
        // SAFETY: the buffer is larger than the structure.
        let status = unsafe { properties(bytes.as_mut_ptr().cast(), ordinal) };
        if status != 0 {
            self.api.failure("hipGetDevicePropertiesR0600", status)?;
        }
        let text = |start: usize| {
            let end = bytes[start..start + 256].iter().position(|&byte| byte == 0).unwrap_or(256);
            String::from_utf8_lossy(&bytes[start..start + end]).into_owned()
        };
        let integer = |start: usize| {
            i32::from_le_bytes([bytes[start], bytes[start + 1], bytes[start + 2], bytes[start + 3]])
        };
        let total: [u8; 8] = std::array::from_fn(|byte| bytes[288 + byte]);
        let target = text(1160);
        Ok(DeviceReport {
            index: 0,
            name: text(0),
            // Without the features behind it, such as `:sramecc+:xnack-`.
            architecture: target.split(':').next().unwrap_or_default().to_owned(),
            target,
            units: usize::try_from(integer(388)).unwrap_or(0),
            total_bytes: usize::try_from(u64::from_le_bytes(total)).unwrap_or(usize::MAX),
            refusal: None,
        })
    }

    fn cuda_report(&self, ordinal: c_int) -> Result<DeviceReport, GpuError> {
        const UNITS: c_int = 16;
        const MAJOR: c_int = 75;
        const MINOR: c_int = 76;
        let Special::Cuda { device, device_name, attribute, .. } = self.api.special else {
            return Err(GpuError::NoDevice { kind: "cuda", index: 0, count: 0 });
        };
        let mut name = [0u8; 256];
        let mut handle = 0;
        let mut values = [0; 3];
        // SAFETY: all pointers are to local variables, the name's with its size.
        unsafe {
            self.check_named("cuDeviceGet", device(&raw mut handle, ordinal))?;
            let status = device_name(name.as_mut_ptr().cast::<c_char>(), 255, handle);
            self.check_named("cuDeviceGetName", status)?;
            for (value, which) in values.iter_mut().zip([UNITS, MAJOR, MINOR]) {
                self.check_named("cuDeviceGetAttribute", attribute(value, which, handle))?;
            }
        }
        let end = name.iter().position(|&byte| byte == 0).unwrap_or(0);
        let architecture = format!("sm_{}{}", values[1], values[2]);
        Ok(DeviceReport {
            index: 0,
            name: String::from_utf8_lossy(&name[..end]).into_owned(),
            target: architecture.clone(),
            architecture,
            units: usize::try_from(values[0]).unwrap_or(0),
            total_bytes: 0,
            refusal: None,
        })
    }

    fn check_named(&self, call: &'static str, status: c_int) -> Result<(), GpuError> {
        if status == 0 { Ok(()) } else { self.api.failure(call, status) }
    }

    /// Opens a device.
    ///
    /// # Errors
    /// There is none of this number, or Octet has no kernels for it.
    pub fn open(&self, index: usize) -> Result<Device, GpuError> {
        let count = self.device_count()?;
        if index >= count {
            return Err(GpuError::NoDevice { kind: self.api.kind.name(), index, count });
        }
        let report = self.report(index)?;
        let architecture = Architecture::parse(&report.architecture)?;
        let ordinal = c_int::try_from(index).unwrap_or(c_int::MAX);
        let mut context = ptr::null_mut();
        if let Special::Cuda { device, retain_context, .. } = self.api.special {
            let mut handle = 0;
            // SAFETY: pointers to local variables; the primary context is retained for the process's life.
            unsafe {
                self.check_named("cuDeviceGet", device(&raw mut handle, ordinal))?;
                let status = retain_context(&raw mut context, handle);
                self.check_named("cuDevicePrimaryCtxRetain", status)?;
            }
        }
        let device = Device(Arc::new(Inner {
            api: Arc::clone(&self.api),
            ordinal,
            context: Pointer(context),
            architecture,
            report,
            limit_ms: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
        }));
        device.bind()?;
        Ok(device)
    }
}

/// A handle that may be used from any thread, as those of both runtimes may.
pub(crate) struct Pointer(pub(crate) Handle);

// SAFETY: handles of both runtimes are names of driver objects, valid in every thread of the process.
unsafe impl Send for Pointer {}
// SAFETY: as above; calls with one handle from several threads are serialised by the driver.
unsafe impl Sync for Pointer {}

struct Inner {
    api: Arc<Api>,
    ordinal: c_int,
    context: Pointer,
    architecture: Architecture,
    report: DeviceReport,
    /// How long the device may work while the host waits, ms; 0 is no limit.
    limit_ms: AtomicU64,
    /// Whether it was given up. Nothing is asked of it then: every call would wait for what does not end.
    is_lost: AtomicBool,
}

/// Whether a device of this process was given up.
static ANY_LOST: AtomicBool = AtomicBool::new(false);

/// Whether a device was given up because it did not finish. The drivers' own clean-up at the end of the process would
/// wait for it: [`crate::end_process`] does without.
#[must_use]
pub fn device_was_lost() -> bool {
    ANY_LOST.load(Ordering::Relaxed)
}

/// An open device, shared by everything that lives on it.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

impl std::fmt::Debug for Device {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.report.fmt(formatter)
    }
}

impl Device {
    pub(crate) fn api(&self) -> &Api {
        &self.0.api
    }

    /// What its kernels must be compiled for.
    #[must_use]
    pub fn architecture(&self) -> Architecture {
        self.0.architecture
    }

    /// Whether it is Octet's own simulator: its results count, its times do not.
    #[must_use]
    pub fn is_simulated(&self) -> bool {
        self.api().is_simulated
    }

    /// What it is.
    #[must_use]
    pub fn report(&self) -> &DeviceReport {
        &self.0.report
    }

    /// Sets how long it may work while the host waits for it: then it is lost to this process. Nothing is no limit.
    pub(crate) fn set_limit(&self, limit: Option<Duration>) {
        let limit = limit.map_or(0, |limit| u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1));
        self.0.limit_ms.store(limit, Ordering::Relaxed);
    }

    pub(crate) fn limit(&self) -> Option<Duration> {
        let limit = self.0.limit_ms.load(Ordering::Relaxed);
        (limit > 0).then(|| Duration::from_millis(limit))
    }

    /// Gives it up.
    pub(crate) fn lose(&self) {
        self.0.is_lost.store(true, Ordering::Relaxed);
        ANY_LOST.store(true, Ordering::Relaxed);
    }

    /// Whether it was given up.
    pub(crate) fn is_lost(&self) -> bool {
        self.0.is_lost.load(Ordering::Relaxed)
    }

    /// Makes it the calling thread's device: both runtimes keep that choice for each thread.
    ///
    /// # Errors
    /// Of the driver, and if the device was given up.
    pub fn bind(&self) -> Result<(), GpuError> {
        if self.is_lost() {
            return Err(GpuError::Lost { name: self.report().name.clone() });
        }
        let (call, status) = match self.api().special {
            // SAFETY: the ordinal was counted when the device was opened.
            Special::Hip { set_device, .. } => ("hipSetDevice", unsafe { set_device(self.0.ordinal) }),
            Special::Cuda { set_context, .. } => {
                // SAFETY: the context was retained when the device was opened.
                let status = unsafe { set_context(self.0.context.0) };
                ("cuCtxSetCurrent", status)
            }
        };
        if status == 0 { Ok(()) } else { self.api().failure(call, status) }
    }

    /// Its memory now; zeros if the driver does not say.
    #[must_use]
    pub fn memory(&self) -> DeviceMemory {
        let (mut free_bytes, mut total_bytes) = (0, 0);
        if self.bind().is_ok() {
            // SAFETY: pointers to local integers.
            unsafe { (self.api().functions.memory_info)(&raw mut free_bytes, &raw mut total_bytes) };
        }
        DeviceMemory { total_bytes, free_bytes }
    }

    /// A stream of its own.
    pub(crate) fn stream(&self) -> Result<driver::Stream, GpuError> {
        driver::Stream::new(self)
    }
}
