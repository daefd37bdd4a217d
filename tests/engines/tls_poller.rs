//! TLS over a poller that takes and gives bytes in pieces of any size: nothing is lost, doubled, or counted too soon.

use std::io::{self, Read, Write};
use std::net::Ipv4Addr;
use std::sync::{Arc, LazyLock};

use proptest::prelude::*;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig};
use sigmad::http::poller::tls::TlsPoller;
use sigmad::http::poller::{Accepted, PolledSocket, Poller, Progress, Received, Wake};
use sigmad::http::tls::server_config;
use sigmad::reloadable::Reloadable;

/// A poller without a kernel, which has one connection.
#[derive(Default)]
struct Pieces {
    /// What the client has sent and the server has not received.
    arriving: Vec<u8>,
    /// What the server has sent and the client has not taken.
    leaving: Vec<u8>,
    received: Vec<u8>,
    /// The next receive gives at most this, the next send takes at most this.
    piece: usize,
}

/// The socket of [`Pieces`].
struct PiecesSocket {
    has_input: bool,
}

impl PolledSocket for PiecesSocket {
    fn update(&mut self, progress: Progress) {
        self.has_input |= progress.has_input;
    }

    fn has_input(&self) -> bool {
        self.has_input
    }

    fn is_half_closed(&self) -> bool {
        false
    }
}

struct NoWake;

impl Wake for NoWake {
    fn wake(&self) {}
}

/// The test reaches the bytes beside the poller that owns them.
#[derive(Clone, Default)]
struct SharedPieces(Arc<std::sync::Mutex<Pieces>>);

/// What [`Poller::receive`] borrows must outlive the lock.
struct PiecesPoller {
    shared: SharedPieces,
    buffer: Vec<u8>,
}

impl Poller for PiecesPoller {
    type Socket = PiecesSocket;

    fn waker(&self) -> Arc<dyn Wake> {
        Arc::new(NoWake)
    }

    fn wait(&mut self, _now_ms: u64, _until_ms: u64) -> io::Result<()> {
        Ok(())
    }

    fn progress(&mut self) -> impl Iterator<Item = Progress> {
        std::iter::empty()
    }

    fn is_listening(&self) -> bool {
        true
    }

    fn may_accept(&self) -> bool {
        true
    }

    fn accept(&mut self) -> io::Result<Option<Accepted<PiecesSocket>>> {
        let socket = PiecesSocket { has_input: false };
        Ok(Some(Accepted { socket, client: Ipv4Addr::LOCALHOST.into() }))
    }

    fn empty_listener(&mut self) {}

    fn close_listener(&mut self) {}

    fn register(&mut self, _socket: &mut PiecesSocket, _key: usize) -> io::Result<()> {
        Ok(())
    }

    fn receive(&mut self, socket: &mut PiecesSocket) -> Received<'_> {
        let mut pieces = self.shared.0.lock().expect("one thread");
        let length = pieces.piece.min(pieces.arriving.len());
        self.buffer = pieces.arriving.drain(..length).collect();
        socket.has_input = !pieces.arriving.is_empty();
        if length == 0 { Received::Nothing } else { Received::Bytes(&mut self.buffer) }
    }

    fn send(&mut self, _socket: &mut PiecesSocket, bytes: &[u8]) -> io::Result<usize> {
        let mut pieces = self.shared.0.lock().expect("one thread");
        let length = pieces.piece.min(bytes.len());
        pieces.leaving.extend_from_slice(&bytes[..length]);
        Ok(length)
    }

    fn shutdown_write(&mut self, _socket: &mut PiecesSocket) -> io::Result<()> {
        Ok(())
    }

    fn close(&mut self, _socket: PiecesSocket) {}
}

struct Configs {
    server: Arc<Reloadable<ServerConfig>>,
    client: Arc<ClientConfig>,
}

static CONFIGS: LazyLock<Configs> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join(format!("sigmad-tls-poller-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a temporary directory");
    crate::certificates::make(&folder);
    let server = server_config(&folder.join("server.crt"), &folder.join("server.key"));
    let mut roots = RootCertStore::empty();
    let authority = CertificateDer::from_pem_file(folder.join("ca.crt")).expect("a certificate");
    roots.add(authority).expect("an authority");
    std::fs::remove_dir_all(folder).expect("it was made");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS 1.2 and 1.3")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Configs { server: Reloadable::new(server.expect("a pair")), client: Arc::new(client) }
});

/// A client in memory.
struct Client {
    session: ClientConnection,
    pieces: SharedPieces,
    plain: Vec<u8>,
}

impl Client {
    /// Takes what the server has sent, and sends what the session has to say.
    fn turn(&mut self) {
        let mut pieces = self.pieces.0.lock().expect("one thread");
        let leaving = std::mem::take(&mut pieces.leaving);
        let mut rest = &leaving[..];
        while !rest.is_empty() {
            self.session.read_tls(&mut rest).expect("a session");
            self.session.process_new_packets().expect("valid records");
            // WouldBlock: all has been read.
            let _ = self.session.reader().read_to_end(&mut self.plain);
        }
        while self.session.wants_write() {
            self.session.write_tls(&mut pieces.arriving).expect("a vector grows");
        }
    }
}

fn piece() -> impl Strategy<Value = usize> {
    prop_oneof![Just(0), 1..8_usize, 100..3_000_usize, 10_000..50_000_usize]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn bytes_pass_in_order_and_count_when_they_have_left(
        request in proptest::collection::vec(any::<u8>(), 1..60_000),
        response in proptest::collection::vec(any::<u8>(), 1..120_000),
        sizes in proptest::collection::vec((piece(), piece()), 8..64),
    ) {
        let pieces = SharedPieces::default();
        let inner = PiecesPoller { shared: pieces.clone(), buffer: Vec::new() };
        let mut poller = TlsPoller::new(inner, CONFIGS.server.reader());
        let mut socket = poller.accept().expect("a socket").expect("a socket").socket;
        let name = ServerName::try_from("localhost").expect("a name");
        let session = ClientConnection::new(CONFIGS.client.clone(), name).expect("a session");
        let mut client = Client { session, pieces: pieces.clone(), plain: Vec::new() };
        client.session.set_buffer_limit(None);
        client.session.writer().write_all(&request).expect("room");
        let mut sent = 0;
        // Sizes of zero alone would stop everything: each cycle ends with one that moves bytes.
        for (taken, given) in sizes.iter().copied().chain([(4_000, 4_000)]).cycle().take(200_000) {
            if client.plain.len() == response.len() {
                break;
            }
            client.turn();
            pieces.0.lock().expect("one thread").piece = taken;
            let has_input = !pieces.0.lock().expect("one thread").arriving.is_empty();
            socket.update(Progress { key: 0, has_input, ..Progress::default() });
            if socket.has_input() {
                match poller.receive(&mut socket) {
                    Received::Bytes(bytes) => {
                        pieces.0.lock().expect("one thread").received.extend_from_slice(bytes);
                    }
                    Received::Nothing => {}
                    other => prop_assert!(false, "{other:?}"),
                }
            }
            prop_assert!(socket.held_bytes() < 100_000);
            pieces.0.lock().expect("one thread").piece = given;
            let received = pieces.0.lock().expect("one thread").received.len();
            if received == request.len() && sent < response.len() {
                sent += poller.send(&mut socket, &response[sent..]).expect("open");
                client.turn();
                prop_assert!(sent <= client.plain.len(), "{sent} counted, {} came", client.plain.len());
            }
        }
        prop_assert!(pieces.0.lock().expect("one thread").received == request);
        prop_assert!(client.plain == response);
        prop_assert_eq!(poller.handshakes(), 0);
    }
}
