use proptest::prelude::*;

use super::*;

/// Feeds a stream as a socket would, and gives what was read and how much of it.
fn read(stream: &[u8]) -> (Result<Option<SocketAddr>, ProxyError>, usize) {
    let mut taken = 0;
    loop {
        match parse(&stream[..taken]) {
            Ok(Parsed::Needs(more)) => {
                assert!(more > 0);
                if taken + more > stream.len() {
                    return (Ok(None), stream.len() + 1);
                }
                taken += more;
            }
            Ok(Parsed::Complete(address)) => return (Ok(address), taken),
            Err(error) => return (Err(error), taken),
        }
    }
}

fn version_2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u16).to_be_bytes();
    [SIGNATURE.as_slice(), &[command, family], &length, body].concat()
}

fn header(source: SocketAddr, version: u8, extra: &[u8]) -> Vec<u8> {
    let port = source.port();
    match (version, source.ip()) {
        (1, IpAddr::V4(ip)) => format!("PROXY TCP4 {ip} 192.0.2.1 {port} 8443\r\n").into_bytes(),
        (1, IpAddr::V6(ip)) => format!("PROXY TCP6 {ip} 2001:db8::1 {port} 8443\r\n").into_bytes(),
        (_, IpAddr::V4(ip)) => {
            let body = [&ip.octets()[..], &[192, 0, 2, 1], &port.to_be_bytes(), &[0x20, 0xfb], extra].concat();
            version_2(0x21, 0x11, &body)
        }
        (_, IpAddr::V6(ip)) => {
            let body = [&ip.octets()[..], &[1; 16], &port.to_be_bytes(), &[0x20, 0xfb], extra].concat();
            version_2(0x21, 0x21, &body)
        }
    }
}

proptest! {
    #[test]
    fn the_source_is_read_and_nothing_behind_the_header(
        ip: IpAddr, port: u16, version in 1..=2_u8, extra in prop::collection::vec(any::<u8>(), 0..200),
        behind in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let header = header(SocketAddr::new(ip, port), version, &extra);
        let stream = [header.as_slice(), &behind].concat();
        prop_assert_eq!(read(&stream), (Ok(Some(SocketAddr::new(ip.to_canonical(), port))), header.len()));
    }

    #[test]
    fn no_bytes_bring_it_down(bytes in prop::collection::vec(any::<u8>(), 0..300), start in 0..4_usize) {
        let beginnings = [&b""[..], b"PROXY ", b"PROXY TCP4 ", SIGNATURE];
        let (_, taken) = read(&[beginnings[start], &bytes].concat());
        prop_assert!(taken <= 16 + LONGEST_BODY);
    }
}

#[test]
fn a_balancer_that_speaks_for_itself_names_nobody() {
    for header in [
        version_2(0x20, 0x00, b""),
        version_2(0x20, 0x11, &[1; 12]),
        version_2(0x21, 0x00, b""),
        version_2(0x21, 0x31, &[0; 216]),
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN ffff::1 ffff::2 65535 65535\r\n".to_vec(),
    ] {
        assert_eq!(read(&header), (Ok(None), header.len()));
    }
}

#[test]
fn what_is_no_header_is_refused() {
    for (bytes, error) in [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\x00".to_vec(), ProxyError::Missing),
        (b"GET / HTTP/1.1\r\n".to_vec(), ProxyError::Missing),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 99999 1\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 ::1 ::1 1 1\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 1.2.3.4\r\n".to_vec(), ProxyError::Line),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 1     \n\r\n".to_vec(), ProxyError::Line),
        ([b"PROXY ".as_slice(), &[b'x'; 200]].concat(), ProxyError::TooLong),
        (version_2(0x21, 0x11, &[0; 11]), ProxyError::Header),
        (version_2(0x21, 0x21, &[0; 12]), ProxyError::Header),
        (version_2(0x11, 0x11, &[0; 12]), ProxyError::Header),
        (version_2(0x22, 0x11, &[0; 12]), ProxyError::Header),
        (version_2(0x21, 0x44, &[0; 12]), ProxyError::Header),
        (version_2(0x21, 0x11, &[0; 5000]), ProxyError::TooLong),
    ] {
        assert_eq!(read(&bytes).0, Err(error), "{bytes:?}");
    }
}
