//! What is looked at on this host: the settings' files, the page's address, the clock.

use crate::doctor::case::{Case, Clock, Listen};
use crate::doctor::finding::Trouble;

pub(super) fn readable(case: &Case) -> Vec<Trouble> {
    let trouble = |file: &(String, u32)| {
        let (name, mode) = file;
        let file = crate::remedy::shell(name);
        Trouble::warn(format!("{name} holds secrets and others on this host may read it (mode {mode:o})"))
            .by_hand(format!("chmod 600 {file}"))
    };
    case.readable.iter().map(trouble).collect()
}

pub(super) fn listen(case: &Case) -> Vec<Trouble> {
    match &case.listen {
        Listen::Free => Vec::new(),
        Listen::Ours => vec![Trouble::ok("a Lockstep is running there")],
        Listen::Refused(fault) => vec![Trouble::fault(fault)],
    }
}

/// Lag in seconds is measured by the source's clock and ours.
const APART: f64 = 2.0;

pub(super) fn clocks(case: &Case) -> Vec<Trouble> {
    let source = case.source.as_ref().ok().map(|source| ("the source's", source.clock));
    let both = [source, case.target.clock.map(|clock| ("Supabase's", clock))];
    let trouble = |(whose, clock): (&str, Clock)| {
        let sure = clock.ahead.abs() - clock.round_trip / 2.0;
        (sure > APART).then(|| {
            let way = if clock.ahead > 0.0 { "ahead of" } else { "behind" };
            let cause = format!("{whose} clock is {:.1} s {way} this host's: lag is shown wrongly", clock.ahead.abs());
            Trouble::warn(cause).by_hand("have both hosts keep time (timedatectl set-ntp true)")
        })
    };
    both.into_iter().flatten().filter_map(trouble).collect()
}
