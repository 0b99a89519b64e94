//! A client that sees what is in each TLS record, and holds every answer against the rules that classic clients rely
//! upon. Nothing of our own client or server is used.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
};

use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, SupportedProtocolVersion,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::stage::PATIENCE;

/// Header names as clients compare them.
const SPELLINGS: &[&str] = &[
    "Content-Length",
    "Content-Type",
    "WWW-Authenticate",
    "Retry-After",
    "X-QVD-VM-Info",
    "X-QVD-Slave-Key",
    "X-QVD-Session-Id",
    "X-QVD-Resume-Token",
];

/// One connection.
pub struct Client {
    tcp: TcpStream,
    tls: ClientConnection,
    /// Received, not looked at yet.
    raw: Vec<u8>,
    certificate: Arc<Presented>,
    /// Whether the server said goodbye before it closed.
    pub goodbye: bool,
}

/// One answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a header in exactly this spelling.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }
}

impl Client {
    pub async fn connect(port: u16) -> Self {
        Self::connect_with(port, &rustls::version::TLS13).await
    }

    /// With one version of TLS.
    pub async fn connect_with(port: u16, version: &'static SupportedProtocolVersion) -> Self {
        let tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
        Self::over(tcp, version).await
    }

    /// Over a connection that is there already.
    pub async fn over(tcp: TcpStream, version: &'static SupportedProtocolVersion) -> Self {
        let certificate = Arc::new(Presented::default());
        let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(certificate.clone())
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").unwrap();
        tcp.set_nodelay(true).unwrap();
        let mut tls = ClientConnection::new(Arc::new(config), name).unwrap();
        tls.set_buffer_limit(None);
        let mut client = Self { tcp, tls, raw: Vec::new(), certificate, goodbye: false };
        while client.tls.is_handshaking() {
            client.flush().await;
            assert_eq!(client.record().await, Some(vec![]), "the server left during the handshake");
        }
        client.flush().await;
        client
    }

    /// The certificate that the server showed.
    pub fn certificate(&self) -> Vec<u8> {
        self.certificate.0.lock().unwrap().clone()
    }

    /// Sends bytes, in one record where they fit.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        std::io::Write::write_all(&mut self.tls.writer(), bytes.as_ref()).unwrap();
        self.flush().await;
    }

    /// Sends bytes if the server still wants any.
    pub async fn try_send(&mut self, bytes: &[u8]) {
        std::io::Write::write_all(&mut self.tls.writer(), bytes).unwrap();
        let mut out = Vec::new();
        self.tls.write_tls(&mut out).unwrap();
        let _ = self.tcp.write_all(&out).await;
    }

    async fn flush(&mut self) {
        let mut out = Vec::new();
        while self.tls.wants_write() {
            self.tls.write_tls(&mut out).unwrap();
        }
        timeout(PATIENCE, self.tcp.write_all(&out)).await.expect("the server does not read").unwrap();
    }

    /// What the next record holds: nothing when it is not about data. `None` is the end.
    async fn record(&mut self) -> Option<Vec<u8>> {
        let length = loop {
            if self.raw.len() >= 5 {
                let length = 5 + usize::from(u16::from_be_bytes([self.raw[3], self.raw[4]]));
                if self.raw.len() >= length {
                    break length;
                }
            }
            let read = timeout(PATIENCE, self.tcp.read_buf(&mut self.raw)).await.expect("the server says nothing");
            if !matches!(read, Ok(read) if read > 0) {
                return None;
            }
        };
        let record: Vec<u8> = self.raw.drain(..length).collect();
        // The library takes some thousand bytes at a time.
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            self.tls.read_tls(&mut rest).unwrap();
            self.tls.process_new_packets().unwrap();
        }
        let state = self.tls.process_new_packets().unwrap();
        if state.peer_has_closed() {
            self.goodbye = true;
            return None;
        }
        let mut data = vec![0; state.plaintext_bytes_to_read()];
        std::io::Read::read_exact(&mut self.tls.reader(), &mut data).unwrap();
        Some(data)
    }

    /// The data of the next record that holds any; `None` when the server has closed.
    pub async fn data(&mut self) -> Option<Vec<u8>> {
        loop {
            match self.record().await {
                Some(data) if data.is_empty() => {}
                other => return other,
            }
        }
    }

    /// Data of this length, however it is cut.
    pub async fn read(&mut self, length: usize) -> Vec<u8> {
        let mut all = Vec::new();
        while all.len() < length {
            all.extend(self.data().await.expect("the server closed the connection"));
        }
        all
    }

    /// Waits until the server closes, and says whether there was nothing before.
    pub async fn ended(&mut self) -> bool {
        self.data().await.is_none()
    }

    /// The next answer, interim or final, in its records.
    pub async fn answer(&mut self) -> Answer {
        let head = self.data().await.expect("the server closed the connection instead of answering");
        let text = String::from_utf8_lossy(&head).into_owned();
        let end = text.find("\r\n\r\n").unwrap_or_else(|| panic!("a head is cut between records: {text:?}")) + 4;
        assert!(!text[..end].replace("\r\n", "").contains(['\r', '\n']), "line ends are not CRLF: {text:?}");
        let mut lines = text[..end - 4].split("\r\n");
        let mut status = lines.next().unwrap().splitn(3, ' ');
        assert_eq!(status.next(), Some("HTTP/1.1"), "{text:?}");
        let code: u16 = status.next().unwrap().parse().unwrap();
        assert!(status.next().is_some_and(|reason| !reason.is_empty()), "no reason phrase: {text:?}");
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").unwrap_or_else(|| panic!("not a header: {line:?}")))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        for (name, value) in &headers {
            assert!(SPELLINGS.contains(&name.as_str()), "clients do not know the header {name}");
            assert_eq!(value.trim(), value, "one blank behind the colon, none behind the value");
        }
        let mut answer = Answer { status: code, headers, body: head[end..].to_vec() };
        let length = answer.header("Content-Length").map(|length| length.parse::<usize>().unwrap());
        match code {
            101 | 102 => {
                assert_eq!(length, None, "{code} has no body");
                assert!(answer.body.is_empty(), "something follows in the record of a {code}: {text:?}");
            }
            _ => {
                let length = length.expect("a final answer says how long it is");
                assert_ne!(length, 0, "the body of a final answer is empty");
                if code >= 400 {
                    assert!(answer.body.is_empty(), "the head of an error shares its record: {text:?}");
                }
                while answer.body.len() < length {
                    answer.body.extend(self.data().await.expect("the body is cut off"));
                }
                assert_eq!(answer.body.len(), length, "more than one answer in a record");
            }
        }
        answer
    }

    /// The texts of the interim answers, and the final one.
    pub async fn conclusion(&mut self) -> (Vec<String>, Answer) {
        let mut texts = Vec::new();
        loop {
            let answer = self.answer().await;
            if answer.status != 102 {
                return (texts, answer);
            }
            texts.push(answer.header("X-QVD-VM-Info").expect("an interim answer says what is done").to_owned());
        }
    }

    /// Reads interim answers up to the one that begins so.
    pub async fn told(&mut self, beginning: &str) {
        loop {
            let answer = self.answer().await;
            assert_eq!(answer.status, 102, "{}", answer.text());
            if answer.header("X-QVD-VM-Info").unwrap().starts_with(beginning) {
                return;
            }
        }
    }

    /// Sends a request and reads the final answer.
    pub async fn ask(&mut self, request: impl AsRef<[u8]>) -> Answer {
        self.send(request).await;
        self.conclusion().await.1
    }

    /// Says that nothing more comes, in TLS and in TCP.
    pub async fn finish(&mut self) {
        self.tls.send_close_notify();
        self.flush().await;
        self.tcp.shutdown().await.unwrap();
    }

    /// Leaves without a word, and so that the server's next packet is refused.
    pub fn cut(self) {
        self.tcp.set_zero_linger().unwrap();
    }
}

/// Takes any certificate and remembers it.
#[derive(Debug, Default)]
pub struct Presented(Mutex<Vec<u8>>);

impl ServerCertVerifier for Presented {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        *self.0.lock().unwrap() = certificate.to_vec();
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}
