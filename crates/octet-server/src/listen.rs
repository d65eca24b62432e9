//! The listening socket, in two steps: the address is claimed before the model is loaded, so that a port in use fails
//! at once; connections are accepted only when there is something to answer, so that clients are refused rather than
//! kept waiting.

use std::fmt;
use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket};

use crate::config::ServerConfig;
use crate::connection::Socket;
use crate::error::ServerError;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// A claimed address.
#[derive(Debug)]
pub struct BoundSocket {
    claimed: Claimed,
    host: String,
    port: u16,
}

#[derive(Debug)]
enum Claimed {
    Tcp(TcpSocket),
    Unix(UnixSocket, SocketFile),
}

/// Where a server listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    /// At a port of an interface.
    Tcp(SocketAddr),
    /// At a socket of this machine's file system.
    Unix(PathBuf),
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(formatter, "http://{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
        }
    }
}

/// The file of a Unix socket, removed when the server ends.
#[derive(Debug)]
pub(crate) struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(%error, path = %self.0.display(), "the socket's file stays behind");
        }
    }
}

/// Claims the configured address.
///
/// # Errors
/// The host has no address, the port is in use or needs permission, the socket's path is taken, or the operating system
/// says no.
pub fn bind(config: &ServerConfig) -> Result<BoundSocket, ServerError> {
    let (host, port) = (config.host.clone(), config.port);
    if let Some(path) = &config.unix_socket {
        return Ok(BoundSocket { claimed: claim_path(path)?, host, port });
    }
    let addresses = (host.as_str(), port)
        .to_socket_addrs()
        .map_err(|source| ServerError::Host { host: host.clone(), source })?;
    let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
    for address in addresses {
        match claim(address) {
            Ok(socket) => return Ok(BoundSocket { claimed: Claimed::Tcp(socket), host, port }),
            Err(error) => last = error,
        }
    }
    Err(explain(last, &host, port))
}

fn claim(address: SocketAddr) -> std::io::Result<TcpSocket> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    // Without this, connections of an earlier server that are still winding down would block the port for a minute.
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket)
}

/// Claims a path. The file of a server that is gone may be replaced, that of one that listens may not, and no other file.
fn claim_path(path: &Path) -> Result<Claimed, ServerError> {
    let failed = |source| ServerError::UnixSocket { path: path.to_owned(), source };
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(ServerError::NoUnixSocket { path: path.to_owned() });
        }
        match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                std::fs::remove_file(path).map_err(failed)?;
            }
            Err(error) => return Err(failed(error)),
            Ok(_) => return Err(ServerError::UnixSocketInUse { path: path.to_owned() }),
        }
    }
    let socket = UnixSocket::new_stream().map_err(failed)?;
    socket.bind(path).map_err(failed)?;
    Ok(Claimed::Unix(socket, SocketFile(path.to_owned())))
}

fn explain(error: std::io::Error, host: &str, port: u16) -> ServerError {
    let host = host.to_owned();
    match error.kind() {
        ErrorKind::AddrInUse => ServerError::PortInUse { host, port },
        ErrorKind::PermissionDenied => ServerError::PortForbidden { host, port },
        ErrorKind::AddrNotAvailable => ServerError::Host { host, source: error },
        _ => ServerError::Listen { host, port, source: error },
    }
}

impl BoundSocket {
    /// The address, with the port that the operating system chose if none was asked for.
    ///
    /// # Errors
    /// The operating system does not know its own socket.
    pub fn local_address(&self) -> Result<ListenAddress, ServerError> {
        match &self.claimed {
            Claimed::Tcp(socket) => socket.local_addr().map(ListenAddress::Tcp).map_err(ServerError::Setup),
            Claimed::Unix(_, file) => Ok(ListenAddress::Unix(file.0.clone())),
        }
    }

    /// Starts to accept connections. Needs the runtime's context.
    pub(crate) fn listen(self) -> Result<Listener, ServerError> {
        let explained = |error| explain(error, &self.host, self.port);
        Ok(match self.claimed {
            Claimed::Tcp(socket) => Listener::Tcp(socket.listen(BACKLOG).map_err(explained)?),
            Claimed::Unix(socket, file) => {
                let failed = |source| ServerError::UnixSocket { path: file.0.clone(), source };
                Listener::Unix(socket.listen(BACKLOG).map_err(failed)?, file)
            }
        })
    }
}

/// A socket that takes connections.
pub(crate) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, #[expect(dead_code, reason = "held to be removed at the end")] SocketFile),
}

impl Listener {
    /// The next connection.
    pub(crate) async fn accept(&self) -> std::io::Result<Socket> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(stream, _)| Socket::Tcp(stream)),
            Self::Unix(listener, _) => listener.accept().await.map(|(stream, _)| Socket::Unix(stream)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(host: &str, port: u16) -> ServerConfig {
        ServerConfig { host: host.to_owned(), port, ..ServerConfig::default() }
    }

    #[test]
    fn a_port_in_use_is_named_with_a_way_out() {
        let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = other.local_addr().unwrap().port();
        let message = bind(&config("127.0.0.1", port)).unwrap_err().to_string();
        let expected = format!(
            "port {port} on 127.0.0.1 is already in use; stop the program that listens there, or choose another \
             with --port"
        );
        assert_eq!(message, expected);
    }

    #[test]
    fn an_address_of_another_machine_is_refused() {
        // 192.0.2.0/24 is for documentation (RFC 5737): no machine has it.
        let error = bind(&config("192.0.2.1", 0)).unwrap_err();
        assert!(matches!(error, ServerError::Host { .. }), "{error}");
    }

    #[test]
    fn the_system_chooses_a_port() {
        let socket = bind(&config("127.0.0.1", 0)).unwrap();
        let ListenAddress::Tcp(address) = socket.local_address().unwrap() else {
            panic!("no path was asked for");
        };
        assert_ne!(address.port(), 0);
    }

    #[test]
    fn only_the_socket_of_a_server_that_is_gone_is_replaced() {
        let folder = std::env::temp_dir().join(format!("octet-listen-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join("socket");
        let at_path = ServerConfig { unix_socket: Some(path.clone()), ..ServerConfig::default() };
        std::fs::write(&path, "a user's file").unwrap();
        assert!(matches!(bind(&at_path), Err(ServerError::NoUnixSocket { .. })));
        std::fs::remove_file(&path).unwrap();
        let other = std::os::unix::net::UnixListener::bind(&path).unwrap();
        assert!(matches!(bind(&at_path), Err(ServerError::UnixSocketInUse { .. })));
        drop(other);
        let socket = bind(&at_path).unwrap();
        assert_eq!(socket.local_address().unwrap().to_string(), format!("unix:{}", path.display()));
        drop(socket);
        assert!(!path.exists());
        std::fs::remove_dir(&folder).unwrap();
    }
}
