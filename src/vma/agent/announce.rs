//! Makes the node notice that the network of this VM is up. A node that calls too early gets no answer to its question
//! for our hardware address and repeats it only after a second; a question of ours answers its own.

use std::{
    fs,
    net::{Ipv4Addr, UdpSocket},
};

/// The discard service: nobody needs to listen there, only the way to it must be found.
const PORT: u16 = 9;

/// Says something to the gateway, which is the node. What fails costs a second at most, so it is not reported.
pub fn to_gateway() {
    let routes = fs::read_to_string("/proc/net/route").unwrap_or_default();
    if let Some(gateway) = gateway(&routes) {
        let sent = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| socket.send_to(&[0], (gateway, PORT)));
        tracing::debug!(%gateway, ?sent, "announced");
    }
}

/// The gateway of the default route in the kernel's table, whose numbers are hexadecimal in the machine's byte order.
fn gateway(routes: &str) -> Option<Ipv4Addr> {
    routes.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let (destination, gateway) = (fields.next()?, fields.next()?);
        let gateway = u32::from_str_radix(gateway, 16).ok()?;
        (destination == "00000000" && gateway != 0).then(|| Ipv4Addr::from(gateway.to_ne_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gateway_is_that_of_the_default_route() {
        let own = u32::from_ne_bytes([10, 201, 0, 1]);
        let routes = format!(
            "Iface\tDestination\tGateway\tFlags\neth0\t0000C90A\t00000000\t0001\neth0\t00000000\t{own:08X}\t0003\n"
        );
        assert_eq!(gateway(&routes), Some(Ipv4Addr::new(10, 201, 0, 1)));
        assert_eq!(gateway("Iface\tDestination\tGateway\n"), None);
    }
}
