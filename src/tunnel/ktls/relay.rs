//! The tunnel over a connection whose kernel has the keys. Data is spliced; what is not data comes one by one:
//!
//! ```text
//!  goodbye      the client closes its direction
//!  key update   new keys for the kernel, if it takes them on a living socket; else the end, said to both sides
//!  others       ignored, as rustls would; an alert other than a goodbye is the end
//! ```
//!
//! Keys of ours that are worn out are changed likewise, or are the end.

use std::{
    io,
    net::Shutdown,
    sync::{Mutex, MutexGuard, OnceLock, PoisonError},
};

use rustls::{AlertDescription, ProtocolVersion};
use socket2::SockRef;
use tokio::{io::Interest, net::TcpStream};

use super::{
    Kernel, KernelTls, Keys,
    keys::{self, Direction},
    record::{self, Record},
};
use crate::tunnel::{
    Counters, Reason,
    splice::{Broken, Stop, deliver, pump_inwards, pump_metered, unless_left_behind},
};

/// Message types of the handshake that may come after it.
const KEY_UPDATE: u8 = 24;
/// A key update that asks for none in return.
const KEYS_UPDATED: &[u8] = &[KEY_UPDATE, 0, 0, 1, 0];

/// Carries bytes until both sides have closed or one fails.
pub async fn carry(outer: &mut KernelTls, inner: &TcpStream, leftover: &[u8], counters: &Counters) -> Reason {
    let first = OnceLock::new();
    let KernelTls { tcp, keys, plain, said_goodbye, kernel } = outer;
    let (tcp, keys) = (&*tcp, &*keys);
    let up = async {
        deliver(leftover, inner, &counters.up).await?;
        deliver(plain.filled(), inner, &counters.up).await?;
        plain.clear();
        let end = loop {
            let surprise = match pump_inwards(tcp, inner, &counters.up).await? {
                Stop::End | Stop::Enough => break Reason::OuterCut,
                Stop::NotData(error) => error,
            };
            match tcp.async_io(Interest::READABLE, || record::receive(tcp)).await.map_err(Broken::Source)? {
                Record::Data(bytes) => {
                    // Correct, but not what this way is for.
                    kernel.give_up("data could not be spliced", &surprise);
                    deliver(&bytes, inner, &counters.up).await?;
                }
                Record::Alert(alert) if alert == record::CLOSE_NOTIFY => break Reason::OuterClosed,
                Record::Alert(alert) => return Err(Broken::Source(refused(&alert))),
                Record::Handshake(messages) => {
                    for wanted in key_updates(&messages).map_err(Broken::Source)? {
                        follow(tcp, keys, wanted).await.map_err(|error| {
                            kernel.give_up("the kernel does not take new keys", &error);
                            Broken::Source(io::Error::new(
                                error.kind(),
                                "the client changed its keys, which this kernel does not support",
                            ))
                        })?;
                    }
                }
                Record::End => break Reason::OuterCut,
                Record::Other(kind) => {
                    return Err(Broken::Source(io::Error::other(format!("a record of type {kind}"))));
                }
            }
        };
        let _ = first.set(end);
        close(inner)
    };
    let up = unless_left_behind(up, tcp, &counters.up, &first);
    let down = async {
        loop {
            match pump_metered(inner, tcp, &counters.down, |bytes| held(keys).worn.by(bytes)).await? {
                Stop::End => break,
                Stop::Enough => renew(tcp, keys, kernel).await.map_err(Broken::Sink)?,
                Stop::NotData(error) => return Err(Broken::Source(error)),
            }
        }
        let _ = first.set(Reason::InnerClosed);
        tcp.async_io(Interest::WRITABLE, || record::send(tcp, record::ALERT, record::CLOSE_NOTIFY))
            .await
            .map_err(Broken::Sink)?;
        *said_goodbye = true;
        close(tcp)
    };
    let up = async { up.await.map_err(|broken| broken.reason(Reason::OuterFailed, Reason::InnerFailed)) };
    let down = async { down.await.map_err(|broken| broken.reason(Reason::InnerFailed, Reason::OuterFailed)) };
    let failed = tokio::try_join!(up, down).err();
    // A side that closed and then resets what still comes has closed, not failed.
    first.into_inner().or(failed).unwrap_or(Reason::InnerClosed)
}

/// Whether each key update among these messages asks for one in return. Other messages may be ignored by a server.
fn key_updates(mut messages: &[u8]) -> io::Result<Vec<bool>> {
    let mut updates = Vec::new();
    while let [kind, a, b, c, rest @ ..] = messages {
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        let (body, others) = rest.split_at_checked(length).ok_or(io::ErrorKind::InvalidData)?;
        match (*kind, body) {
            (KEY_UPDATE, [wanted @ (0 | 1)]) => updates.push(*wanted == 1),
            (KEY_UPDATE, _) => return Err(io::ErrorKind::InvalidData.into()),
            _ => {}
        }
        messages = others;
    }
    if messages.is_empty() { Ok(updates) } else { Err(io::ErrorKind::InvalidData.into()) }
}

/// Gives the kernel the keys that follow those the client had, and ours if the client wants that, too.
async fn follow(tcp: &TcpStream, keys: &Mutex<Keys>, ours_too: bool) -> io::Result<()> {
    {
        let session = &mut held(keys).session;
        let theirs = session.update_rx_secret().map_err(io::Error::other)?;
        keys::install(tcp, Direction::Receive, session.protocol_version(), theirs)?;
    }
    if ours_too { change(tcp, keys).await } else { Ok(()) }
}

/// Changes keys of ours that are worn out.
async fn renew(tcp: &TcpStream, keys: &Mutex<Keys>, kernel: &Kernel) -> io::Result<()> {
    let possible = kernel.follows_key_updates() && held(keys).session.protocol_version() == ProtocolVersion::TLSv1_3;
    if possible {
        return change(tcp, keys).await;
    }
    Err(io::Error::other("its keys have encrypted as much as they may, and the kernel takes no others"))
}

/// Says that our keys change, and gives the kernel those that follow. Nothing may be sent between the two.
async fn change(tcp: &TcpStream, keys: &Mutex<Keys>) -> io::Result<()> {
    tcp.async_io(Interest::WRITABLE, || record::send(tcp, record::HANDSHAKE, KEYS_UPDATED)).await?;
    let mut keys = held(keys);
    let ours = keys.session.update_tx_secret().map_err(io::Error::other)?;
    keys::install(tcp, Direction::Send, keys.session.protocol_version(), ours)?;
    keys.worn.renew();
    Ok(())
}

fn held(keys: &Mutex<Keys>) -> MutexGuard<'_, Keys> {
    keys.lock().unwrap_or_else(PoisonError::into_inner)
}

fn refused(alert: &[u8]) -> io::Error {
    let what = alert.get(1).map(|code| AlertDescription::from(*code));
    io::Error::new(io::ErrorKind::InvalidData, format!("the client ended the session with the alert {what:?}"))
}

fn close(tcp: &TcpStream) -> Result<(), Broken> {
    match SockRef::from(tcp).shutdown(Shutdown::Write) {
        // The peer is gone completely; that the other side closed was the news, not that it cannot be told so.
        Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(Broken::Sink(error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_updates_are_found_among_other_messages() {
        assert_eq!(key_updates(&[24, 0, 0, 1, 1, 4, 0, 0, 2, 9, 9, 24, 0, 0, 1, 0]).unwrap(), [true, false]);
        for broken in [&[24, 0, 0, 1][..], &[24, 0, 0, 2, 0, 0], &[24, 0], &[24, 0, 0, 1, 7]] {
            assert!(key_updates(broken).is_err(), "{broken:?}");
        }
    }
}
