//! Explores.
use cretoai_consensus_model::{mutation::Mutation, view_change::ViewChangeModel, sync::*, convergence::Convergence, wants::Wants};
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
    if args.len() == 2 {
      use cretoai_consensus_model::epochs::*;
      for c in [Change::Replace, Change::Remove, Change::Add] {
        let start = Instant::now();
        let k = EpochModel::new(c, args[0], args[1], Mutation::None).checker().spawn_dfs().join();
        println!("epochs {c:?} total {} unique {} depth {} {:?} disc {:?}", k.state_count(), k.unique_state_count(), k.max_depth(), start.elapsed(),
            k.discoveries().into_iter().map(|(n, p)| (n, p.into_actions().len())).collect::<Vec<_>>());
      for m in [Mutation::OldVotesCount, Mutation::VotePastReconfig, Mutation::OpenWhenPrepared] {
        let start = Instant::now();
        let k = EpochModel::new(c, args[0], args[1], m).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{m:?} unique {} {:?} {:?}", k.unique_state_count(), start.elapsed(), k.discoveries().into_iter().map(|(n, p)| (n, p.into_actions())).collect::<Vec<_>>());
      }
      }
      return;
    }
    if args.len() == 1 {
      for (n, h) in [(3, 3), (4, 3), (5, 4), (6, 5), (7,5)] { for m in [Mutation::None, Mutation::NeverFollow] {
        let start = Instant::now();
        let mut c = Convergence::new(Wants::new(n, m));
        let mut all = vec![vec![0u8]];
        for _ in 1..h { all = all.iter().flat_map(|v| (v[v.len()-1]..=3).map(move |x| { let mut v = v.clone(); v.push(x); v })).collect(); }
        let bad: Vec<_> = all.iter().filter(|v| !c.is_certain(v)).collect();
        println!("{n} {m:?} {} bad {} {:?} {:?}", all.len(), bad.len(), bad.first(), start.elapsed());
      } }
      for last in 1..=args[0] { for r in [Reports::Newest, Reports::Any] {
        let start = Instant::now();
        let c = SyncModel::new(last, r, Mutation::None).checker().spawn_dfs().join();
        println!("sync {last} {r:?} total {} unique {} depth {} {:?} disc {:?}", c.state_count(), c.unique_state_count(), c.max_depth(), start.elapsed(),
            c.discoveries().into_iter().map(|(n, p)| (n, p.into_actions())).collect::<Vec<_>>());
      }}
      for m in [Mutation::EnterAtWeakQuorum, Mutation::FollowOne, Mutation::NeverFollow] {
        let start = Instant::now();
        let c = SyncModel::new(3, Reports::Newest, m).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{m:?} unique {} {:?} {:?}", c.unique_state_count(), start.elapsed(), c.discoveries().into_iter().map(|(n, p)| (n, p.into_actions())).collect::<Vec<_>>());
      }
      return;
    }
    for m in [Mutation::ForgetView, Mutation::ForgetPrepare, Mutation::OmitLock, Mutation::LeaderChooses, Mutation::LowestView] {
        let start = Instant::now();
        let c = ViewChangeModel::new(4, 3, 1, m).checker().finish_when(HasDiscoveries::AnyFailures).spawn_bfs().join();
        println!("{m:?} unique {} {:?} {:?}", c.unique_state_count(), start.elapsed(), c.discoveries().into_iter().map(|(_, p)| p.into_actions()).collect::<Vec<_>>());
    }
}
