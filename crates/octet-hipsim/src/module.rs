//! Code objects: what the simulator's compiler makes, and what a program loads and launches.
//!
//! A code object is a header and a shared library for the host. The header says for which architecture it was made, how
//! long it is and what its bytes hash to, so that one from a damaged cache is refused and not run.

use std::ffi::CString;
use std::fs::File;
use std::io::Write;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};
use sha2::{Digest, Sha256};

use crate::execute::{Lane, hand_over};
use crate::lds::Lds;
use crate::profile::{Profile, of_name};
use crate::status::{HipError, HipResult};

/// First bytes of a code object.
const MAGIC: &[u8; 8] = b"HIPSIM1\n";
/// Bytes of the header: magic, architecture, length, hash.
const HEADER_BYTES: usize = 8 + 16 + 8 + 32;
/// Version of what kernels and simulator share; `HIPSIM_ABI` in `device/lane.h`.
const ABI: u32 = 1;

/// Puts the header before a shared library.
pub(crate) fn code_object(profile: &Profile, library: &[u8]) -> Vec<u8> {
    let mut code = Vec::with_capacity(HEADER_BYTES + library.len());
    let mut architecture = [0_u8; 16];
    architecture[..profile.name.len()].copy_from_slice(profile.name.as_bytes());
    code.extend_from_slice(MAGIC);
    code.extend_from_slice(&architecture);
    code.extend_from_slice(&(library.len() as u64).to_le_bytes());
    code.extend_from_slice(&Sha256::digest(library));
    code.extend_from_slice(library);
    code
}

/// A loaded code object.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) profile: &'static Profile,
    library: Library,
    /// The file that the library was loaded from. It stays open so that its name stays taken: the loader takes a file
    /// with the name of a loaded library for that library.
    _file: File,
    lds: Lds,
    slot: unsafe extern "C" fn() -> *mut *mut Lane,
}

/// A kernel of a loaded module.
#[derive(Debug)]
pub(crate) struct Function {
    pub(crate) module: Arc<Module>,
    pub(crate) name: String,
    pub(crate) entry: unsafe extern "C" fn(*const libc::c_void),
    /// Bytes of the parameter struct.
    pub(crate) parameter_bytes: usize,
    /// Threads that a block may have at most, as the kernel declares.
    pub(crate) threads_max: u32,
    /// Bytes of the LDS variables that the kernel itself declares.
    pub(crate) lds_bytes: usize,
}

/// A thread's own part of a module: where the running lane is noted, and the LDS variables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ThreadImage {
    pub(crate) slot: *mut *mut Lane,
    pub(crate) lds: *mut u8,
    pub(crate) lds_bytes: usize,
}

/// What `hipsim_kernel` in `device/lane.h` holds.
#[repr(C)]
#[derive(Clone, Copy)]
struct KernelFacts {
    parameter_bytes: u32,
    threads_max: u32,
}

/// A code object's architecture and the library in it.
///
/// # Safety
///
/// `image` points to a header and, if that has the magic, to as many bytes behind it as it says.
unsafe fn parse<'image>(image: *const u8) -> HipResult<(&'static Profile, &'image [u8])> {
    // SAFETY: the magic is the first thing that any image has; the rest of the header is read only behind it.
    let magic = unsafe { std::slice::from_raw_parts(image, MAGIC.len()) };
    if magic != MAGIC {
        return Err(HipError::InvalidImage);
    }
    // SAFETY: the caller passes a whole header behind the magic.
    let header = unsafe { std::slice::from_raw_parts(image, HEADER_BYTES) };
    let name = String::from_utf8_lossy(&header[8..24]);
    let profile = of_name(name.trim_end_matches('\0')).ok_or(HipError::InvalidImage)?;
    let length: [u8; 8] = header[24..32].try_into().map_err(|_| HipError::InvalidImage)?;
    let length = usize::try_from(u64::from_le_bytes(length)).map_err(|_| HipError::InvalidImage)?;
    // SAFETY: the caller passes as many bytes as the header says.
    let library = unsafe { std::slice::from_raw_parts(image.add(HEADER_BYTES), length) };
    if Sha256::digest(library).as_slice() != &header[32..64] {
        return Err(HipError::InvalidImage);
    }
    Ok((profile, library))
}

/// Opens a shared library from memory.
fn open(library: &[u8]) -> std::io::Result<(Library, File)> {
    // SAFETY: the name is a string literal; the descriptor that comes back is ours alone.
    let file = unsafe {
        let descriptor = libc::memfd_create(c"octet-hipsim".as_ptr(), libc::MFD_CLOEXEC);
        if descriptor < 0 {
            return Err(std::io::Error::last_os_error());
        }
        OwnedFd::from_raw_fd(descriptor)
    };
    let mut file = File::from(file);
    file.write_all(library)?;
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    // SAFETY: the library's initialisers fill tables of numbers and call nothing.
    let library = unsafe { Library::open(Some(path), RTLD_NOW | RTLD_LOCAL) };
    Ok((library.map_err(std::io::Error::other)?, file))
}

impl Module {
    /// Loads a code object for a device.
    ///
    /// # Safety
    ///
    /// As for [`parse`].
    pub(crate) unsafe fn load(image: *const u8, device: &Profile) -> HipResult<Self> {
        // SAFETY: the caller's promise is the same.
        let (profile, library) = unsafe { parse(image) }?;
        if profile != device {
            return Err(HipError::NoBinaryForDevice);
        }
        let lds = Lds::read(library);
        let (library, file) = open(library).map_err(|error| {
            crate::status::report(&format!("a code object cannot be loaded: {error}"));
            HipError::InvalidImage
        })?;
        type Bind = unsafe extern "C" fn(unsafe extern "C" fn(*mut Lane)) -> u32;
        type Slot = unsafe extern "C" fn() -> *mut *mut Lane;
        // SAFETY: the code object's hash is right, so that it is one of ours, in which these symbols have these types.
        let (bind, slot) = unsafe {
            let bind = library.get::<Bind>(b"hipsim_bind\0").map_err(|_| HipError::InvalidImage)?;
            let slot = library.get::<Slot>(b"hipsim_slot\0").map_err(|_| HipError::InvalidImage)?;
            (*bind, *slot)
        };
        // SAFETY: the function only stores the pointer.
        if unsafe { bind(hand_over) } != ABI {
            return Err(HipError::InvalidImage);
        }
        Ok(Self { profile, library, _file: file, lds, slot })
    }

    /// A kernel by its name.
    pub(crate) fn function(self: &Arc<Self>, name: &str) -> HipResult<Function> {
        let symbol = |name: String| CString::new(name).map_err(|_| HipError::InvalidValue);
        let facts_name = symbol(format!("{name}_hipsim"))?;
        let entry_name = symbol(name.to_owned())?;
        // SAFETY: the kernel macro of `device/lane.h` defines both symbols, with these types.
        let (facts, entry) = unsafe {
            let facts = self.library.get::<*const KernelFacts>(facts_name.as_bytes_with_nul());
            let entry =
                self.library.get::<unsafe extern "C" fn(*const libc::c_void)>(entry_name.as_bytes_with_nul());
            (**facts.map_err(|_| HipError::NotFound)?, *entry.map_err(|_| HipError::NotFound)?)
        };
        Ok(Function {
            module: Arc::clone(self),
            name: name.to_owned(),
            entry,
            parameter_bytes: facts.parameter_bytes as usize,
            threads_max: facts.threads_max,
            lds_bytes: self.lds.of_kernel(name),
        })
    }

    /// The part of the module that belongs to the calling thread.
    pub(crate) fn image_of_this_thread(&self) -> ThreadImage {
        /// How often the loader is asked. It knows no address as long as this thread's list of modules is behind, which
        /// happens while other threads load and unload libraries.
        const TRIES: usize = 100;
        let mut search = Search { inside: self.slot as usize, lds: std::ptr::null_mut(), lds_bytes: 0 };
        for _ in 0..TRIES {
            // SAFETY: the function only returns an address; its call brings the thread's list up to this module, and the
            // first one makes the thread's copy.
            let slot = unsafe { (self.slot)() };
            // SAFETY: the callback gets the pointer to `search`, which outlives the call.
            unsafe { libc::dl_iterate_phdr(Some(look_at), (&raw mut search).cast()) };
            if search.lds_bytes == 0 || !search.lds.is_null() {
                return ThreadImage { slot, lds: search.lds, lds_bytes: search.lds_bytes };
            }
            std::thread::yield_now();
        }
        // Without the address LDS is not poisoned before the block, and all else works.
        // SAFETY: as above.
        let slot = unsafe { (self.slot)() };
        ThreadImage { slot, lds: std::ptr::NonNull::dangling().as_ptr(), lds_bytes: 0 }
    }
}

/// A library is looked for by an address in it; its thread-local storage is all LDS.
struct Search {
    inside: usize,
    lds: *mut u8,
    lds_bytes: usize,
}

unsafe extern "C" fn look_at(
    information: *mut libc::dl_phdr_info,
    _bytes: usize,
    search: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: the loader passes valid information, and `search` is what `image_of_this_thread` gave it.
    let (information, search) = unsafe { (&*information, &mut *search.cast::<Search>()) };
    // SAFETY: the loader says how many program headers there are.
    let headers =
        unsafe { std::slice::from_raw_parts(information.dlpi_phdr, usize::from(information.dlpi_phnum)) };
    let base = usize::try_from(information.dlpi_addr).unwrap_or(0);
    let contains = |header: &libc::Elf64_Phdr| {
        let start = base + usize::try_from(header.p_vaddr).unwrap_or(0);
        let bytes = usize::try_from(header.p_memsz).unwrap_or(0);
        header.p_type == libc::PT_LOAD && (start..start + bytes).contains(&search.inside)
    };
    if !headers.iter().any(contains) {
        return 0;
    }
    if let Some(storage) = headers.iter().find(|header| header.p_type == libc::PT_TLS) {
        search.lds = information.dlpi_tls_data.cast();
        search.lds_bytes = usize::try_from(storage.p_memsz).unwrap_or(0);
    }
    1
}
