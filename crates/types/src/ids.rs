//! Numbers that must not be mixed do not share a type.

use borsh::{BorshDeserialize, BorshSerialize};
use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
        pub struct $name(pub $inner);

        impl $name {
            /// The next number. Overflow stops the node, because no honest history is that long.
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
    /// The id of a validator. Ids are given in order and never given again. The position of a
    /// validator's lane is the position of its id among the members of the epoch
    /// ([`crate::Validators::position`]).
    NodeId(u32)
);
number!(
    /// The term of one leader. A view change replaces the leader.
    View(u64)
);
number!(
    /// The number of a decision. 0 is the genesis; the first decision is 1.
    Sequence(u64)
);
number!(
    /// The position of a vertex in its author's lane. The first vertex has height 1; 0 stands for
    /// an empty lane.
    Height(u64)
);
number!(
    /// A period with one fixed set of validators. Genesis opens epoch 0.
    Epoch(u64)
);
