//! Explores.
use cretoai_consensus_model::{mutation::Mutation, view_change::ViewChangeModel};
use stateright::{Checker, Model, HasDiscoveries};
use std::time::Instant;
fn main() {
    let args: Vec<u8> = std::env::args().skip(1).map(|a| a.parse().unwrap()).collect();
    if args.len() > 2 {
        let start = Instant::now();
        let mut m = ViewChangeModel::new(args[0], args[1], args[2], Mutation::None);
        if args.len() > 3 { m = m.unreduced(); }
        let c = m.checker().spawn_dfs().join();
        println!("{args:?} total {} unique {} depth {} {:?} disc {:?}", c.state_count(), c.unique_state_count(), c.max_depth(), start.elapsed(),
            c.discoveries().into_iter().map(|(n, p)| (n, p.into_actions().len())).collect::<Vec<_>>());
        return;
    }
    for m in [Mutation::ForgetView, Mutation::ForgetPrepare, Mutation::OmitLock, Mutation::LeaderChooses, Mutation::LowestView] {
        let start = Instant::now();
        let c = ViewChangeModel::new(4, 3, 1, m).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{m:?} unique {} {:?} {:?}", c.unique_state_count(), start.elapsed(), c.discoveries().into_iter().map(|(_, p)| p.into_actions()).collect::<Vec<_>>());
    }
}
