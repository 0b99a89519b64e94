//! One TLS session without input or output: bytes that came are put into `incoming`, bytes to be sent appear in
//! `outgoing`. After `process`, `incoming` holds no complete record, which is why `encrypt` never meets one.

use std::sync::Arc;

use rustls::{
    Error, ExtractedSecrets, ServerConfig,
    kernel::KernelConnection,
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus},
};

use crate::tunnel::buffers::Buffer;

/// What a record costs besides its contents, at most.
const OVERHEAD: usize = 64;
/// What a record carries at most.
pub const RECORD: usize = 16 * 1024;

/// A session and the bytes at its encrypted side.
pub struct Session {
    tls: UnbufferedServerConnection,
    /// Received and not decrypted yet.
    pub incoming: Buffer,
    /// Encrypted and not sent yet.
    pub outgoing: Buffer,
    /// No byte is received beyond the end of a record, so that what follows can be left to the kernel.
    pub by_record: bool,
    heard_goodbye: bool,
    said_goodbye: bool,
    /// A record has come that was not data. The answer to a key update, if it was one, is kept by the library until data
    /// is sent and cannot be had in any other way.
    may_owe: bool,
    /// Why nothing more can be done with it.
    failed: Option<Error>,
}

/// What is to be encrypted.
enum Words<'a> {
    Data(&'a [u8]),
    Goodbye,
}

impl Session {
    /// A session whose client has not spoken yet.
    pub fn new(config: Arc<ServerConfig>) -> Result<Self, Error> {
        Ok(Self {
            tls: UnbufferedServerConnection::new(config)?,
            incoming: Buffer::default(),
            outgoing: Buffer::default(),
            by_record: false,
            heard_goodbye: false,
            said_goodbye: false,
            may_owe: false,
            failed: None,
        })
    }

    /// Whether the handshake is still to be finished.
    pub fn is_handshaking(&self) -> bool {
        self.tls.is_handshaking()
    }

    /// Whether the client has said that it sends nothing more.
    pub fn heard_goodbye(&self) -> bool {
        self.heard_goodbye
    }

    /// Whether an answer may be left that goes before the next data.
    pub fn may_owe_an_answer(&self) -> bool {
        self.may_owe
    }

    /// What was agreed with the client.
    pub fn tls(&self) -> &UnbufferedServerConnection {
        &self.tls
    }

    /// Decrypts all that has come; `deliver` gets the contents record by record. Answers to it, an alert in the case of
    /// an error, are in `outgoing`.
    ///
    /// # Errors
    /// When the client breaks the rules. The session is then useless.
    pub fn process(&mut self, mut deliver: impl FnMut(&[u8])) -> Result<(), Error> {
        self.usable()?;
        let (shaking_hands, waiting) = (self.is_handshaking(), self.incoming.filled().len());
        let mut heard_data = false;
        loop {
            let UnbufferedStatus { mut discard, state } = self.tls.process_tls_records(self.incoming.filled_mut());
            let mut done = false;
            match state {
                Ok(ConnectionState::ReadTraffic(mut records)) => {
                    heard_data = true;
                    while let Some(record) = records.next_record() {
                        let record = record?;
                        discard += record.discard;
                        deliver(record.payload);
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    encode(|space| data.encode(space), &mut self.outgoing)?;
                }
                Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                Ok(ConnectionState::PeerClosed) => self.heard_goodbye = true,
                // Early data is never offered.
                Ok(ConnectionState::ReadEarlyData(mut records)) => while records.next_record().is_some() {},
                Ok(_) => done = true,
                Err(error) => {
                    self.failed = Some(error.clone());
                    self.encode_alert();
                    return Err(error);
                }
            }
            self.incoming.consume(discard);
            if self.heard_goodbye {
                // Whatever follows a goodbye is not to be looked at.
                self.incoming.clear();
            }
            if done {
                // Where this matters, a record comes at a time.
                self.may_owe |= !shaking_hands && !heard_data && self.incoming.filled().len() < waiting;
                return Ok(());
            }
        }
    }

    /// The keys, and what makes others out of them, for whoever goes on with the session.
    ///
    /// # Errors
    /// When the configuration does not allow it, or the handshake is not finished.
    pub fn into_secrets(self) -> Result<(ExtractedSecrets, KernelConnection<ServerConnectionData>), Error> {
        self.tls.dangerous_into_kernel_connection()
    }

    fn usable(&self) -> Result<(), Error> {
        self.failed.clone().map_or(Ok(()), Err)
    }

    /// What the library has to say to the client about an error comes after the error, and only while there is some may it
    /// be asked: looking at the same records again would not do.
    fn encode_alert(&mut self) {
        while self.tls.wants_write() {
            match self.tls.process_tls_records(self.incoming.filled_mut()).state {
                Ok(ConnectionState::EncodeTlsData(mut data)) => {
                    if encode(|space| data.encode(space), &mut self.outgoing).is_err() {
                        return;
                    }
                }
                _ => return,
            }
        }
    }

    /// Encrypts `plain` into `outgoing`.
    ///
    /// # Errors
    /// When the keys are worn out, or after a goodbye of ours.
    pub fn encrypt(&mut self, plain: &[u8]) -> Result<(), Error> {
        self.say(&Words::Data(plain))
    }

    /// Tells the client that nothing more will be sent; once.
    ///
    /// # Errors
    /// When the session is useless.
    pub fn say_goodbye(&mut self) -> Result<(), Error> {
        if std::mem::replace(&mut self.said_goodbye, true) { Ok(()) } else { self.say(&Words::Goodbye) }
    }

    fn say(&mut self, words: &Words<'_>) -> Result<(), Error> {
        self.usable()?;
        loop {
            let UnbufferedStatus { discard, state } = self.tls.process_tls_records(self.incoming.filled_mut());
            let mut said = false;
            match state? {
                ConnectionState::EncodeTlsData(mut data) => {
                    encode(|space| data.encode(space), &mut self.outgoing)?;
                }
                ConnectionState::TransmitTlsData(data) => data.done(),
                ConnectionState::PeerClosed => self.heard_goodbye = true,
                ConnectionState::WriteTraffic(mut traffic) => {
                    match words {
                        Words::Data(plain) => {
                            let wanted = plain.len() + (plain.len() / RECORD + 1) * OVERHEAD;
                            self.outgoing.spare(wanted);
                            encode(|space| traffic.encrypt(plain, space), &mut self.outgoing)?;
                            self.may_owe &= plain.is_empty();
                        }
                        Words::Goodbye => {
                            encode(|space| traffic.queue_close_notify(space), &mut self.outgoing)?;
                        }
                    }
                    said = true;
                }
                state => return Err(Error::General(format!("nothing can be sent in the state {state:?}"))),
            }
            self.incoming.consume(discard);
            if said {
                return Ok(());
            }
        }
    }
}

/// Why the library did not write.
trait Shortage {
    /// How much room it needs, if that was it.
    fn wanted(&self) -> Option<usize>;
}

impl Shortage for EncodeError {
    fn wanted(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(size) => Some(size.required_size),
            Self::AlreadyEncoded => None,
        }
    }
}

impl Shortage for EncryptError {
    fn wanted(&self) -> Option<usize> {
        match self {
            Self::InsufficientSize(size) => Some(size.required_size),
            Self::EncryptExhausted => None,
        }
    }
}

/// Lets the library write into the buffer, with as much room as it asks for.
fn encode<E: Shortage + ToString>(
    mut write: impl FnMut(&mut [u8]) -> Result<usize, E>,
    into: &mut Buffer,
) -> Result<(), Error> {
    let mut wanted = 0;
    loop {
        match write(into.spare(wanted)) {
            Ok(written) => {
                into.advance(written);
                return Ok(());
            }
            Err(error) => match error.wanted() {
                Some(more) if more > wanted => wanted = more,
                _ => return Err(Error::General(error.to_string())),
            },
        }
    }
}
