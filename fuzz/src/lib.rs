//! What the fuzzers run: the program's own files that read what strangers send, and no others. Made into a crate of
//! their own they are built in seconds, where the whole program takes minutes, and nothing else is counted as explored.
//! The rooms are those of the program, so that the files find each other.

#![allow(dead_code, unused_imports, reason = "some of these files serve parts that are not here")]

#[path = "../../src/fuzz.rs"]
pub mod fuzz;

#[path = "../../src/l7r"]
pub mod l7r {
    mod hello;
    mod proxy;

    pub mod http {
        mod answer;
        mod authorization;
        mod head;
        mod request;

        pub use answer::Status;
        pub use authorization::Credentials;
        pub use head::{HeadParser, Parsed, parse};
        pub use request::{Query, Request};
    }

    pub(crate) use hello::read_any as fuzz_hello;
    pub(crate) use proxy::read_any as fuzz_proxy;
}

#[path = "../../src/model"]
pub mod model {
    mod secret;
    mod xstate;

    pub use secret::VmSecret;
    pub use xstate::XState;
}

#[path = "../../src/vma"]
pub mod vma {
    pub mod client;
    pub mod protocol;
}

#[path = "../../src/wat"]
pub mod wat {
    pub mod spy {
        mod rfb;

        pub(crate) use rfb::read_any;
    }

    pub(crate) use spy::read_any as fuzz_viewer;
}
