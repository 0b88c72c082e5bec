//! Numbers that must not be mixed do not share a type.

use borsh::{BorshDeserialize, BorshSerialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub $inner);

        impl $name {
            /// The one after this. Overflow stops the node: no honest history is that long.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0 + 1)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// A validator's id: given once, in order, and never again. The position of its lane is that of
    /// its id among the members of the epoch ([`crate::Validators::position`]).
    NodeId(u32)
);
number!(
    /// PBFT's view: the term of one leader.
    View(u64)
);
number!(
    /// The number of a decision. 0 is the genesis; the first decision is 1.
    Sequence(u64)
);
number!(
    /// The position of a vertex in its author's lane. 0 is "no vertex yet"; the first vertex has
    /// height 1.
    Height(u64)
);
number!(
    /// A period with one fixed set of validators. Genesis opens epoch 0.
    Epoch(u64)
);
