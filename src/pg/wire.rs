//! A byte stream to a Postgres server: plain, through a Unix socket or through TLS, with one large read buffer from
//! which messages are split without copying.

use std::io;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use rustls::pki_types::ServerName;
use sha2::{Digest, Sha256, Sha384, Sha512};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{TlsConnector, client::TlsStream};
use x509_cert::der::Decode;

use super::client::{no_tls, unreachable};
use super::tls;
use super::url::{Encryption, Host, Url};
use crate::types::Fault;

/// One system call brings up to this much: some thousand small messages, while a core's cache still holds it.
const READ_BYTES: usize = 256 * 1024;

/// Below this much room a read would bring too little; a new buffer is taken instead.
const LEAST_READ_BYTES: usize = 16 * 1024;

/// A dead peer is noticed after about a minute, however little there is to say.
const SILENCE: Duration = Duration::from_secs(60);

pub(super) struct Wire {
    stream: Box<dyn Duplex>,
    input: BytesMut,
    /// Written by `flush`.
    pub(super) output: BytesMut,
    /// The hash that ties a login to this TLS connection (`tls-server-end-point`), if there is TLS and its
    /// certificate's signature names a hash.
    pub(super) end_point: Option<Vec<u8>>,
    pub(super) encrypted: bool,
}

trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl Wire {
    /// Connects and, if the URL asks for it, starts TLS.
    pub(super) async fn open(url: &Url) -> Result<Self, Fault> {
        match &url.host {
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", url.port));
                let stream = UnixStream::connect(path).await.map_err(|error| unreachable(url, &error))?;
                Ok(Self::new(stream))
            }
            Host::Tcp(host) => {
                let stream = TcpStream::connect((host.as_str(), url.port))
                    .await
                    .and_then(|stream| keep_alive(&stream).map(|()| stream))
                    .map_err(|error| unreachable(url, &error))?;
                Self::negotiate(url, host, stream).await
            }
        }
    }

    fn new(stream: impl Duplex + 'static) -> Self {
        let (input, output) = (BytesMut::with_capacity(READ_BYTES), BytesMut::new());
        Self { stream: Box::new(stream), input, output, end_point: None, encrypted: false }
    }

    async fn negotiate(url: &Url, host: &str, mut stream: TcpStream) -> Result<Self, Fault> {
        if url.encryption() == Encryption::Never {
            return Ok(Self::new(stream));
        }
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        let lost = |error: io::Error| unreachable(url, &error);
        stream.write_all(&request).await.map_err(lost)?;
        // One byte exactly: anything read beyond it would be plain text that a stranger put before the handshake.
        match stream.read_u8().await.map_err(lost)? {
            b'S' => {}
            b'N' if url.encryption() == Encryption::IfOffered => return Ok(Self::new(stream)),
            b'N' => return Err(no_tls(url)),
            _ => return Err(Fault::retry(format!("{} does not answer as a Postgres server", url.address()))),
        }
        let config = tls::config(url)?;
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| Fault::stop(format!("`{host}` is not a host name"), "correct the host in the URL"))?;
        let stream = TlsConnector::from(std::sync::Arc::new(config))
            .connect(name, stream)
            .await
            .map_err(|error| tls::fault(url, &error).unwrap_or_else(|| unreachable(url, &error)))?;
        let end_point = end_point(&stream);
        Ok(Self { end_point, encrypted: true, ..Self::new(stream) })
    }

    /// Sends what `output` holds.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        self.stream.write_all_buf(&mut self.output).await?;
        self.stream.flush().await
    }

    /// Waits for bytes and keeps them; cancelling it loses none.
    pub(super) async fn fill(&mut self) -> io::Result<()> {
        if self.input.capacity() - self.input.len() < LEAST_READ_BYTES {
            self.input.reserve(READ_BYTES);
        }
        match self.stream.read_buf(&mut self.input).await? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed the connection")),
            _ => Ok(()),
        }
    }

    /// The next message that is here already, as its tag and body.
    pub(super) fn buffered(&mut self) -> io::Result<Option<(u8, Bytes)>> {
        let Some(total) = self.total()? else { return Ok(None) };
        if self.input.len() < total {
            // Ask for a long message's room at once, and for what `fill` wants behind it: the buffer then grows, and is
            // copied, only this one time.
            let missing = total - self.input.len();
            if missing > self.input.capacity() - self.input.len() {
                self.input.reserve(missing + READ_BYTES);
            }
            return Ok(None);
        }
        let tag = self.input[0];
        let mut message = self.input.split_to(total).freeze();
        message.advance(5);
        Ok(Some((tag, message)))
    }

    /// The next message of an ordinary conversation; `None` is CopyBothResponse, which the crate does not know.
    pub(super) async fn message(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(total) = self.total()?
                && self.input.len() >= total
            {
                if self.input[0] == b'W' {
                    self.input.advance(total);
                    return Ok(None);
                }
                return Message::parse(&mut self.input);
            }
            self.fill().await?;
        }
    }

    /// Length of the next message with its tag, once its head is here.
    fn total(&self) -> io::Result<Option<usize>> {
        let Some(head) = self.input.get(1..5) else { return Ok(None) };
        let len = i32::from_be_bytes([head[0], head[1], head[2], head[3]]);
        match usize::try_from(len) {
            Ok(len) if len >= 4 => Ok(Some(len + 1)),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {len} bytes"))),
        }
    }
}

/// Without this a connection that died without a word is noticed after two hours.
fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    use rustix::net::sockopt::{
        set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl, set_tcp_user_timeout,
    };
    stream.set_nodelay(true)?;
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, SILENCE / 2)?;
    set_tcp_keepintvl(stream, SILENCE / 6)?;
    set_tcp_keepcnt(stream, 3)?;
    set_tcp_user_timeout(stream, SILENCE.as_millis() as u32)?;
    Ok(())
}

/// RFC 5929: the hash of the server's certificate, by the hash of its own signature, MD5 and SHA-1 raised to SHA-256.
fn end_point(stream: &TlsStream<TcpStream>) -> Option<Vec<u8>> {
    let certificate = stream.get_ref().1.peer_certificates()?.first()?;
    let signature = x509_cert::Certificate::from_der(certificate).ok()?.signature_algorithm.oid;
    match signature.to_string().as_str() {
        // RSA or ECDSA with MD5, SHA-1, SHA-256
        "1.2.840.113549.1.1.4"
        | "1.2.840.113549.1.1.5"
        | "1.2.840.113549.1.1.11"
        | "1.2.840.10045.4.1"
        | "1.2.840.10045.4.3.2" => Some(Sha256::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.12" | "1.2.840.10045.4.3.3" => Some(Sha384::digest(certificate).to_vec()),
        "1.2.840.113549.1.1.13" | "1.2.840.10045.4.3.4" => Some(Sha512::digest(certificate).to_vec()),
        // Ed25519 and RSA-PSS name no hash here; the server offers no binding for them either.
        _ => None,
    }
}
