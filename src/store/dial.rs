//! Opens connections to Redis: bytes out, replies in.
//!
//! What is above sees Redis and the network through these two traits alone, so that a simulation of both can
//! stand in their place.

use std::fmt::Debug;
use std::time::Duration;

use redis::io::tcp::TcpSettings;
use redis::{
    Client, Connection, ConnectionAddr, IntoConnectionInfo, RedisConnectionInfo, RedisResult, Value,
};

use super::url::Address;

/// For the SYN to be acknowledged: three round trips around the world; a lost SYN costs an attempt.
/// It applies to each address of a host name.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// For each write, and for each read of a reply: past it Redis or the network hangs.
/// A script or a fork stops a healthy Redis for a tenth of it.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(2);

/// Opens connections.
pub trait Dialer: Debug + Send + Sync {
    /// Connects to one Redis process, within a bounded time.
    fn dial(&self, address: &Address, is_tls: bool) -> RedisResult<Box<dyn RedisStream>>;
}

/// One open connection. Every call ends within a bounded time; after an error it is not used again.
pub trait RedisStream: Send {
    /// Sends encoded commands.
    fn write(&mut self, packed: &[u8]) -> RedisResult<()>;
    /// Reads the next reply. A refusal is a [`Value::ServerError`].
    fn read(&mut self) -> RedisResult<Value>;
}

/// Connects over TCP, with or without TLS.
#[derive(Debug)]
pub struct TcpDialer;

impl Dialer for TcpDialer {
    fn dial(&self, address: &Address, is_tls: bool) -> RedisResult<Box<dyn RedisStream>> {
        let Address { host, port } = address.clone();
        let to = if is_tls {
            // Without parameters the roots are the system's, or those of SSL_CERT_FILE.
            ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None }
        } else {
            ConnectionAddr::Tcp(host, port)
        };
        let tcp = TcpSettings::default()
            // A flush is one write: waiting for more data only delays its end.
            .set_nodelay(true)
            // The write timeout starts again with each part that is written. This one counts from the last
            // byte that the other side has acknowledged.
            .set_user_timeout(REPLY_TIMEOUT);
        let info = to
            .into_connection_info()?
            .set_tcp_settings(tcp)
            // The crate would wait for each reply to its own setup commands, one timeout after another.
            .set_redis_settings(RedisConnectionInfo::default().set_skip_set_lib_name());
        let connection = Client::open(info)?.get_connection_with_timeout(CONNECT_TIMEOUT)?;
        connection.set_read_timeout(Some(REPLY_TIMEOUT))?;
        connection.set_write_timeout(Some(REPLY_TIMEOUT))?;
        Ok(Box::new(connection))
    }
}

impl RedisStream for Connection {
    fn write(&mut self, packed: &[u8]) -> RedisResult<()> {
        self.send_packed_command(packed)
    }

    fn read(&mut self) -> RedisResult<Value> {
        self.recv_response()
    }
}
