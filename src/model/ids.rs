//! Identifiers as the database gives them, one type each so that they cannot be mixed up.

use std::fmt;

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl From<$inner> for $name {
            fn from(id: $inner) -> Self {
                Self(id)
            }
        }
    };
}

id!(
    /// A tenant (`tenants.id`); −1 stands for what is common to all.
    TenantId(i32)
);
id!(
    /// A user (`users.id`).
    UserId(i32)
);
id!(
    /// A node (`hosts.id`).
    HostId(i32)
);
id!(
    /// An operating system flavour (`osfs.id`): what a VM is made from.
    OsfId(i32)
);
id!(
    /// A disk image (`dis.id`): one version of an OSF.
    DiId(i32)
);
id!(
    /// A virtual machine (`vms.id`).
    VmId(i32)
);
id!(
    /// One use of a VM by a client, from acquisition to end (`user_sessions.id`).
    SessionId(i64)
);
id!(
    /// One run of an L7R process (`l7r_instances.id`).
    InstanceId(i64)
);

impl SessionId {
    /// The name of a session that a run of L7R makes. No other has it, whatever the database forgets in a crash.
    pub fn new(instance: InstanceId, number: u32) -> Self {
        Self(instance.0 * 10_000_000_000 + i64::from(number))
    }
}
