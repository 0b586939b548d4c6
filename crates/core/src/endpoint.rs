//! The addresses of a connection, each a type of its own: one becomes another only by a function that says why.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::ops::Deref;

use serde::{Serialize, Serializer};

use crate::address::AddressText;

macro_rules! endpoints {
    ($($(#[$doc:meta])* $name:ident)*) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(pub SocketAddr);

        impl Deref for $name {
            type Target = SocketAddr;

            fn deref(&self) -> &SocketAddr {
                &self.0
            }
        }

        impl From<SocketAddr> for $name {
            fn from(address: SocketAddr) -> Self {
                Self(address)
            }
        }

        impl From<([u8; 4], u16)> for $name {
            fn from(address: ([u8; 4], u16)) -> Self {
                Self(address.into())
            }
        }

        impl From<(Ipv4Addr, u16)> for $name {
            fn from(address: (Ipv4Addr, u16)) -> Self {
                Self(address.into())
            }
        }

        impl From<(IpAddr, u16)> for $name {
            fn from(address: (IpAddr, u16)) -> Self {
                Self(address.into())
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(AddressText::new(self.0).as_str())
            }
        }
    )*};
}

endpoints! {
    /// Who has connected to us: the other end of the accepted socket.
    ClientAddr
    /// Where the client wanted to go, before the kernel redirected it.
    OriginalDst
    /// The server's own address at the end of a session, which nothing may lie between that could lead elsewhere the next time.
    ReachedAt
    /// What we connect to.
    DialAddr
}

impl OriginalDst {
    /// What is dialled for a client that wanted to go here.
    #[must_use]
    pub fn dialled(self) -> DialAddr {
        DialAddr(self.0)
    }
}

impl DialAddr {
    /// Where a client of a listener wants to go that leads here.
    #[must_use]
    pub fn wanted(self) -> OriginalDst {
        OriginalDst(self.0)
    }
}

impl ReachedAt {
    /// Where a server is reached if nothing lies between: at the address that was dialled.
    #[must_use]
    pub fn direct(to: DialAddr) -> Self {
        Self(to.0)
    }

    /// Where a redirected client has reached us: at the address that it wanted.
    #[must_use]
    pub fn redirected(to: OriginalDst) -> Self {
        Self(to.0)
    }
}
