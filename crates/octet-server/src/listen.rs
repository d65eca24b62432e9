//! The listening socket, in two steps: the address is claimed before the model is loaded, so that a port in use fails
//! at once; connections are accepted only when there is something to answer, so that clients are refused rather than
//! kept waiting.

use std::io::ErrorKind;
use std::net::{SocketAddr, ToSocketAddrs};

use tokio::net::{TcpListener, TcpSocket};

use crate::config::ServerConfig;
use crate::error::ServerError;

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: u32 = 1024;

/// A claimed address.
#[derive(Debug)]
pub struct BoundSocket {
    socket: TcpSocket,
    host: String,
    port: u16,
}

/// Claims the configured address.
///
/// # Errors
/// The host has no address, the port is in use or needs permission, or the operating system says no.
pub fn bind(config: &ServerConfig) -> Result<BoundSocket, ServerError> {
    let (host, port) = (config.host.clone(), config.port);
    let addresses = (host.as_str(), port)
        .to_socket_addrs()
        .map_err(|source| ServerError::Host { host: host.clone(), source })?;
    let mut last = std::io::Error::from(ErrorKind::AddrNotAvailable);
    for address in addresses {
        match claim(address) {
            Ok(socket) => return Ok(BoundSocket { socket, host, port }),
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
    pub fn local_address(&self) -> Result<SocketAddr, ServerError> {
        self.socket.local_addr().map_err(ServerError::Setup)
    }

    /// Starts to accept connections. Needs the runtime's context.
    pub(crate) fn listen(self) -> Result<TcpListener, ServerError> {
        self.socket.listen(BACKLOG).map_err(|error| explain(error, &self.host, self.port))
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
        assert_ne!(socket.local_address().unwrap().port(), 0);
    }
}
