//! The kinds of objects one by one.

use super::Object;

/// All kinds.
pub const ALL: &[&Object] = &[
    &VM,
    &USER,
    &HOST,
    &OSF,
    &DI,
    &TENANT,
    &ROLE,
    &ADMINISTRATOR,
    &CONFIG,
    &PROPERTY,
    &ACL,
    &LOG,
    &SESSION,
    &STAGING,
    &TUNNEL,
    &END,
];

/// Virtual machines.
pub const VM: Object = Object {
    name: "vm",
    columns: &["id", "name", "blocked", "user", "host", "di", "ip", "ip_in_use", "di_in_use", "state", "user_state"],
    create: &[
        ("name", true),
        ("user_id", true),
        ("osf_id", true),
        ("di_tag", false),
        ("ip", false),
        ("blocked", false),
        ("description", false),
    ],
    update: &["name", "ip", "blocked", "expiration_soft", "expiration_hard", "di_tag", "description"],
    verbs: &["start", "stop", "disconnect", "block", "unblock"],
    parts: &["properties"],
    aliases: &[
        ("user_name", "user"),
        ("osf_name", "osf"),
        ("host_name", "host"),
        ("di_name", "di"),
        ("tenant_name", "tenant"),
    ],
    full_name: Some(("vm", '/')),
};

/// Users.
pub const USER: Object = Object {
    name: "user",
    columns: &["id", "name", "blocked", "number_of_vms", "number_of_vms_connected"],
    create: &[("name", true), ("password", true), ("tenant_id", false), ("blocked", false), ("description", false)],
    update: &["name", "password", "blocked", "description"],
    verbs: &["block", "unblock"],
    parts: &["properties"],
    aliases: &[("tenant_name", "tenant"), ("login", "name")],
    full_name: Some(("user", '@')),
};

/// Nodes.
pub const HOST: Object = Object {
    name: "host",
    columns: &["id", "name", "blocked", "address", "frontend", "backend", "state", "number_of_vms_connected"],
    create: &[
        ("name", true),
        ("address", true),
        ("frontend", false),
        ("backend", false),
        ("blocked", false),
        ("description", false),
    ],
    update: &["name", "address", "blocked", "description"],
    verbs: &["block", "unblock"],
    parts: &["properties"],
    aliases: &[("ip_address", "address")],
    full_name: None,
};

/// Kinds of desktops.
pub const OSF: Object = Object {
    name: "osf",
    columns: &["id", "name", "overlay", "user_storage", "memory", "tenant", "number_of_vms", "number_of_dis"],
    create: &[
        ("name", true),
        ("tenant_id", false),
        ("memory", false),
        ("overlay", false),
        ("user_storage", false),
        ("description", false),
    ],
    update: &["name", "memory", "overlay", "user_storage", "description"],
    verbs: &[],
    parts: &["properties"],
    aliases: &[("tenant_name", "tenant")],
    full_name: None,
};

/// Disk images.
pub const DI: Object = Object {
    name: "di",
    columns: &["id", "name", "version", "osf", "blocked", "tags", "state"],
    create: &[("osf_id", true), ("disk_image", true), ("version", false)],
    update: &["blocked", "description"],
    verbs: &["block", "unblock", "publish"],
    parts: &["properties", "tags"],
    aliases: &[("tenant_name", "tenant"), ("disk_image", "name")],
    full_name: None,
};

/// Organisations that do not know of each other.
pub const TENANT: Object = Object {
    name: "tenant",
    columns: &["id", "name", "language", "block", "blocked"],
    create: &[("name", true), ("language", false), ("block", false), ("blocked", false), ("description", false)],
    update: &["name", "language", "block", "blocked", "description"],
    verbs: &["block", "unblock", "purge"],
    parts: &[],
    aliases: &[],
    full_name: None,
};

/// Sets of rights.
pub const ROLE: Object = Object {
    name: "role",
    columns: &["id", "name", "fixed", "internal"],
    create: &[("name", true), ("tenant_id", false), ("description", false)],
    update: &["name", "description"],
    verbs: &[],
    parts: &["roles", "acls"],
    aliases: &[("tenant_name", "tenant")],
    full_name: None,
};

/// Those who administer.
pub const ADMINISTRATOR: Object = Object {
    name: "administrator",
    columns: &["id", "name", "language", "block"],
    create: &[
        ("name", true),
        ("password", true),
        ("tenant_id", false),
        ("language", false),
        ("block", false),
        ("description", false),
    ],
    update: &["name", "password", "language", "block", "description"],
    verbs: &[],
    parts: &["roles"],
    aliases: &[("tenant_name", "tenant")],
    full_name: None,
};

/// Settings.
pub const CONFIG: Object = Object {
    name: "config",
    columns: &["key", "value", "default", "is_default"],
    create: &[],
    update: &[],
    verbs: &[],
    parts: &[],
    aliases: &[("name", "key"), ("default_value", "default"), ("tenant_name", "tenant")],
    full_name: None,
};

/// Custom properties that objects may have.
pub const PROPERTY: Object = Object {
    name: "property",
    columns: &["id", "key", "description"],
    create: &[("key", true), ("tenant_id", false), ("description", false)],
    update: &["key", "description"],
    verbs: &[],
    parts: &["objects"],
    aliases: &[("name", "key"), ("tenant_name", "tenant")],
    full_name: None,
};

/// Rights.
pub const ACL: Object = Object {
    name: "acl",
    columns: &["name", "role", "own", "effective"],
    create: &[],
    update: &[],
    verbs: &[],
    parts: &[],
    aliases: &[],
    full_name: None,
};

/// What was done.
pub const LOG: Object = Object {
    name: "log",
    columns: &["time", "admin_name", "type_of_action", "qvd_object", "object_name", "status"],
    create: &[],
    update: &[],
    verbs: &[],
    parts: &[],
    aliases: &[
        ("name", "object_name"),
        ("action", "type_of_action"),
        ("admin", "admin_name"),
        ("object", "qvd_object"),
    ],
    full_name: None,
};

/// Users that are or were connected.
pub const SESSION: Object = Object {
    name: "session",
    columns: &[
        "id",
        "vm",
        "client",
        "host",
        "router",
        "started_at",
        "duration",
        "bytes_up",
        "bytes_down",
        "tunnel",
        "end_reason",
    ],
    create: &[],
    update: &[],
    verbs: &[],
    parts: &[],
    aliases: &[("name", "vm")],
    full_name: None,
};

/// Files that can be made disk images.
pub const STAGING: Object = Object {
    name: "staging",
    columns: &["file", "size", "kind", "modified", "seen", "problem", "hosts"],
    create: &[],
    update: &[],
    verbs: &[],
    parts: &[],
    aliases: &[("name", "file")],
    full_name: None,
};

/// How tunnels move their bytes.
pub const TUNNEL: Object = Object {
    name: "tunnel",
    columns: &["host", "tunnel", "tunnels", "bytes_up", "bytes_down"],
    create: &[],
    update: &[],
    verbs: &[],
    parts: &[],
    aliases: &[("name", "host")],
    full_name: None,
};

/// Why sessions ended.
pub const END: Object = Object {
    name: "end",
    columns: &["host", "reason", "sessions"],
    create: &[],
    update: &[],
    verbs: &[],
    parts: &[],
    aliases: &[("name", "host")],
    full_name: None,
};
