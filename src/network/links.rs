//! Bridge and VM interfaces, made through the kernel's own interface (`rtnetlink`), without programs in between.

use std::net::{IpAddr, Ipv6Addr};

use futures_util::TryStreamExt;
use nix::errno::Errno;
use rtnetlink::{
    Error, Handle, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        AddressFamily,
        address::{AddressAttribute, AddressFlags},
        link::{InfoKind, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
        neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    },
};

use super::{Bridge, Mac, NetworkError, Plug};

/// Marks a bridge as made by us, so that `remove` leaves an administrator's alone.
const OURS: &str = "made by qvd";

/// An open line to the kernel, for the network namespace of the thread that opened it.
pub(super) struct Links {
    handle: Handle,
}

impl Links {
    /// To be called inside a tokio runtime.
    pub fn open() -> Result<Self, NetworkError> {
        let (connection, handle, _) = rtnetlink::new_connection().map_err(|source| NetworkError::Link {
            doing: "ask the kernel for",
            link: "interfaces".into(),
            source,
        })?;
        // Ends with the handle.
        tokio::spawn(connection);
        Ok(Self { handle })
    }

    /// Makes or mends the bridge: it is there, up, and has the host's addresses. Whether something had to be done.
    pub async fn ensure_bridge(&self, name: &str, mac: Mac, addresses: &[(IpAddr, u8)]) -> Result<bool, NetworkError> {
        let doing = |doing| failed(doing, name);
        let mut done = false;
        let link = match self.find(name).await? {
            Some(link) if kind(&link) == Some(InfoKind::Bridge) => link,
            Some(_) => return Err(NetworkError::NoBridge { name: name.to_owned() }),
            None => {
                done = true;
                let bridge = LinkBridge::new(name).address(mac.0.to_vec()).up().build();
                self.handle.link().add(bridge).execute().await.map_err(doing("make the bridge"))?;
                let made = self.found(name).await?;
                let mark = LinkUnspec::new_with_index(made.header.index).alias(OURS).build();
                self.handle.link().set(mark).execute().await.map_err(doing("mark the bridge"))?;
                made
            }
        };
        let index = link.header.index;
        if !link.header.flags.contains(LinkFlags::Up) {
            done = true;
            let up = LinkUnspec::new_with_index(index).up().build();
            self.handle.link().set(up).execute().await.map_err(doing("switch on the bridge"))?;
        }
        for (address, prefix) in addresses {
            done |= self.add_address(name, *address, *prefix).await?;
        }
        Ok(done)
    }

    /// Gives an interface an address; whether it had it not.
    pub async fn add_address(&self, name: &str, address: IpAddr, prefix: u8) -> Result<bool, NetworkError> {
        let index = self.found(name).await?.header.index;
        let mut add = self.handle.address().add(index, address, prefix);
        if address.is_ipv6() {
            // Nobody else can have it, and to make sure of that would take a second in which nothing can use it.
            add.message_mut().attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
        }
        match add.execute().await {
            Err(error) if errno(&error) == Some(Errno::EEXIST) => Ok(false),
            Err(error) => Err(failed("give an address to", name)(error)),
            Ok(()) => Ok(true),
        }
    }

    /// Sends what is for other networks to a gateway of IPv6.
    pub async fn add_gateway(&self, name: &str, gateway: Ipv6Addr) -> Result<(), NetworkError> {
        let index = self.found(name).await?.header.index;
        let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(index).build();
        match self.handle.route().add(route).execute().await {
            Err(error) if errno(&error) != Some(Errno::EEXIST) => Err(failed("set the gateway of", name)(error)),
            _ => Ok(()),
        }
    }

    /// What has that name.
    pub async fn bridge(&self, name: &str) -> Result<Bridge, NetworkError> {
        Ok(match self.find(name).await? {
            None => Bridge::Absent,
            Some(link) if kind(&link) == Some(InfoKind::Bridge) => Bridge::There,
            Some(_) => Bridge::Other,
        })
    }

    /// Makes the two ends of a cable.
    pub async fn make_pair(&self, one: &str, other: &str) -> Result<(), NetworkError> {
        let pair = LinkVeth::new(one, other).build();
        self.handle.link().add(pair).execute().await.map_err(failed("make the interface", one))
    }

    /// Removes the bridge if it was made by `ensure_bridge` and nothing is plugged into it.
    pub async fn remove_bridge(&self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        let ours = link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::IfAlias(a) if a == OURS));
        if !ours || self.has_ports(link.header.index).await? {
            return Ok(());
        }
        self.handle.link().del(link.header.index).execute().await.map_err(failed("remove the bridge", name))
    }

    /// Makes an interface an isolated port of `bridge` that only lets the planned hardware address pass, and tells
    /// the bridge where that is and whose it is. Repeatable.
    ///
    /// The bridge believes nobody else who sends under that address: a static entry alone would follow him to his port, for
    /// good, and the VM would be cut off. What a node left of a VM that runs here now does so when its network comes back:
    /// connections of killed processes send on for minutes.
    pub async fn attach(&self, bridge: &str, plug: &Plug) -> Result<(), NetworkError> {
        let mac = plug.mac;
        let doing = |doing| failed(doing, &plug.host_end);
        let bridge = self.found(bridge).await?.header.index;
        let port = self.found(&plug.host_end).await?.header.index;
        // Down first: between becoming a port and being isolated nothing may pass.
        let join = LinkUnspec::new_with_index(port).down().controller(bridge).build();
        self.handle.link().set(join).execute().await.map_err(doing("plug into the bridge"))?;
        let guarded = LinkBridgePort::new(port).isolated(true).locked(true).learning(false).flood(false).build();
        self.handle.link().set_port(guarded).execute().await.map_err(doing("isolate the bridge port"))?;
        self.handle
            .neighbours()
            .add_bridge(port, &mac.0)
            .state(NeighbourState::Noarp)
            .flags(NeighbourFlags::Controller | NeighbourFlags::Sticky)
            .replace()
            .execute()
            .await
            .map_err(doing("tell the bridge the address behind"))?;
        // Without this, a first packet sent before the VM is up would leave the kernel asking once a second who has
        // the address, and every connection would wait for the answer.
        for address in &plug.addresses {
            self.handle
                .neighbours()
                .add(bridge, address.ip)
                .link_layer_address(&mac.0)
                .state(NeighbourState::Permanent)
                .replace()
                .execute()
                .await
                .map_err(doing("make the neighbour behind"))?;
        }
        let up = LinkUnspec::new_with_index(port).up().build();
        self.handle.link().set(up).execute().await.map_err(doing("switch on the interface"))
    }

    /// Removes an interface and, with it, its other end. Nothing happens when it is not there.
    pub async fn remove(&self, name: &str) -> Result<(), NetworkError> {
        let Some(link) = self.find(name).await? else { return Ok(()) };
        match self.handle.link().del(link.header.index).execute().await {
            // The other end may have vanished with the VM's namespace meanwhile.
            Err(error) if errno(&error) != Some(Errno::ENODEV) => Err(failed("remove the interface", name)(error)),
            _ => Ok(()),
        }
    }

    /// Forgets who has `address` on `bridge`.
    pub async fn forget_neighbour(&self, bridge: &str, address: IpAddr) -> Result<(), NetworkError> {
        let Some(link) = self.find(bridge).await? else { return Ok(()) };
        let mut neighbour = NeighbourMessage::default();
        let (family, destination) = match address {
            IpAddr::V4(address) => (AddressFamily::Inet, NeighbourAddress::Inet(address)),
            IpAddr::V6(address) => (AddressFamily::Inet6, NeighbourAddress::Inet6(address)),
        };
        neighbour.header.family = family;
        neighbour.header.ifindex = link.header.index;
        neighbour.attributes.push(NeighbourAttribute::Destination(destination));
        match self.handle.neighbours().del(neighbour).execute().await {
            Err(error) if errno(&error) != Some(Errno::ENOENT) => Err(failed("forget a neighbour on", bridge)(error)),
            _ => Ok(()),
        }
    }

    /// The interfaces whose names begin with `prefix`.
    pub async fn names(&self, prefix: &str) -> Result<Vec<String>, NetworkError> {
        let links = self.all().await?;
        Ok(links.iter().filter_map(name).filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    /// Those of them that are no ports of `bridge`.
    pub async fn outside(&self, bridge: &str, prefix: &str) -> Result<Vec<String>, NetworkError> {
        let bridge = self.found(bridge).await?.header.index;
        let links = self.all().await?;
        let outside = links.iter().filter(|link| !is_port(link, bridge)).filter_map(name);
        Ok(outside.filter(|name| name.starts_with(prefix)).map(str::to_owned).collect())
    }

    async fn has_ports(&self, bridge: u32) -> Result<bool, NetworkError> {
        Ok(self.all().await?.iter().any(|link| is_port(link, bridge)))
    }

    async fn all(&self) -> Result<Vec<LinkMessage>, NetworkError> {
        self.handle.link().get().execute().try_collect().await.map_err(failed("list", "interfaces"))
    }

    async fn find(&self, name: &str) -> Result<Option<LinkMessage>, NetworkError> {
        match self.handle.link().get().match_name(name.to_owned()).execute().try_next().await {
            Ok(link) => Ok(link),
            Err(error) if errno(&error) == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(failed("look up the interface", name)(error)),
        }
    }

    async fn found(&self, name: &str) -> Result<LinkMessage, NetworkError> {
        self.find(name).await?.ok_or_else(|| NetworkError::Absent { link: name.to_owned() })
    }
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn is_port(link: &LinkMessage, bridge: u32) -> bool {
    link.attributes.iter().any(|attribute| matches!(attribute, LinkAttribute::Controller(index) if *index == bridge))
}

fn kind(link: &LinkMessage) -> Option<InfoKind> {
    let infos = link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    })?;
    infos.iter().find_map(|info| match info {
        LinkInfo::Kind(kind) => Some(kind.clone()),
        _ => None,
    })
}

fn failed(doing: &'static str, link: &str) -> impl FnOnce(Error) -> NetworkError {
    move |error| NetworkError::Link {
        doing,
        link: link.to_owned(),
        source: errno(&error).map_or_else(|| std::io::Error::other(error), std::io::Error::from),
    }
}

fn errno(error: &Error) -> Option<Errno> {
    match error {
        Error::NetlinkError(message) => Some(Errno::from_raw(message.raw_code().abs())),
        _ => None,
    }
}
