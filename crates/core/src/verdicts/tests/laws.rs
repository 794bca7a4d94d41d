//! Laws that always hold.

use std::collections::{BTreeMap, BTreeSet};

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

fn facts() -> impl Strategy<Value = TargetFacts> {
    let kinds = vec![
        well(),
        well(),
        down(),
        down(),
        down(),
        failing(),
        rising(),
        never_well(),
        unknown(),
    ];
    let flags = vec(any::<bool>(), 5);
    let contrasts = vec((1..=6u8).prop_map(address), 0..4);
    (select(kinds), flags, 0..4u64, 0..4u64, contrasts).prop_map(|(kind, flags, since, last, contrasts)| {
        let mut facts = kind;
        let has_failed = facts.since.is_some();
        facts.since = has_failed.then_some(at(10_000 + since));
        facts.last_success = facts.last_success.map(|_| at(9_000 + last));
        facts.contrasts = contrasts.into_iter().collect();
        facts.is_recent = facts.phase != Phase::New && (facts.answers || flags[0]);
        facts.has_objection = flags[1] && flags[2];
        facts.had_time_to_object = flags[3];
        // The last response of a target that is well can be a 429, for example. Then `answers` is false.
        facts.answers &= flags[4] || facts.phase != Phase::Well;
        facts
    })
}

fn scene() -> impl Strategy<Value = Scene> {
    let ports = select(vec![vec![], vec![SUPERVISOR], vec![SUPERVISOR, 8443]]);
    let all = vec((facts(), facts(), facts(), any::<bool>()), 1..7);
    (ports, all, any::<bool>(), any::<bool>()).prop_map(|(ports, all, may_take_out, is_new)| {
        let mut scene = Scene::new(0);
        for (n, (api, supervisor, other, was_out)) in (1..).zip(all) {
            scene.candidates.push(Candidate {
                address: address(n),
                was_out,
            });
            scene = scene
                .set(n, api)
                .set_on(SUPERVISOR, n, supervisor)
                .set_on(8443, n, other);
        }
        scene.ports.extend(ports);
        scene.report.leadership = Leadership { may_take_out, is_new };
        scene
    })
}

impl Scene {
    fn facts_of(&self, candidate: &Candidate) -> Vec<&TargetFacts> {
        let target = |port: &u16| Target::new(candidate.address, *port);
        let facts = self.ports.iter().map(|port| &self.report.targets[&target(port)]);
        facts.collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule: 7.half
    #[test]
    fn at_most_half_are_ever_out(scene in scene()) {
        prop_assert!(scene.out().len() <= scene.candidates.len() / 2);
    }

    /// Rule: 7.only-one-that-answers
    #[test]
    fn the_only_endpoint_that_answers_is_never_out(scene in scene()) {
        let out = scene.judge().out;
        for address in out.keys() {
            for port in &scene.ports {
                let answers = |address| scene.report.targets[&Target::new(address, *port)].answers;
                let recent = |address| scene.report.targets[&Target::new(address, *port)].is_recent;
                let mut listed = scene.candidates.iter().filter(|candidate| !out.contains_key(&candidate.address));
                prop_assert!(!answers(*address) || listed.any(|candidate| recent(candidate.address)), "{address}:{port}");
            }
        }
    }

    /// Rule: 7.new
    #[test]
    fn an_endpoint_never_seen_well_is_not_taken_out(scene in scene()) {
        let out = scene.out();
        for candidate in scene.candidates.iter().filter(|candidate| !candidate.was_out) {
            let is_new = scene.facts_of(candidate).iter().all(|facts| facts.phase == Phase::New);
            prop_assert!(!is_new || !scene.judge().out.contains_key(&candidate.address), "{out:?}");
        }
    }

    /// Rule: 7.conditions
    #[test]
    fn nothing_is_taken_out_unless_all_conditions_hold(scene in scene()) {
        let out = scene.judge().out;
        for candidate in scene.candidates.iter().filter(|candidate| out.contains_key(&candidate.address)) {
            let all = scene.facts_of(candidate);
            prop_assert!(all.iter().any(|facts| !facts.has_objection), "objected on each port");
            if !candidate.was_out {
                let holds = |facts: &&TargetFacts| facts.phase == Phase::Down && facts.had_time_to_object && !facts.has_objection;
                prop_assert!(scene.report.leadership.may_take_out);
                prop_assert!(all.into_iter().any(|facts| holds(&facts)), "{candidate:?}");
            }
        }
    }

    /// Rule: 7.blind
    #[test]
    fn all_endpoints_return_when_blind(mut scene in scene()) {
        for facts in scene.report.targets.values_mut() {
            (facts.is_recent, facts.had_time) = (false, true);
        }
        let judgment = scene.judge();
        prop_assert!(judgment.blind);
        prop_assert!(judgment.out.is_empty());
    }

    /// Rule: 7.stable
    #[test]
    fn the_order_of_the_candidates_does_not_matter(scene in scene(), turn in 0..7usize) {
        let mut turned = scene.clone();
        let n = scene.candidates.len();
        turned.candidates.rotate_left(turn % n);
        prop_assert_eq!(scene.judge(), turned.judge());
        turned.candidates.reverse();
        prop_assert_eq!(scene.judge(), turned.judge());
    }

    /// Rule: 7.stable
    #[test]
    fn judging_the_result_again_changes_nothing(scene in scene()) {
        let first = scene.judge();
        let mut again = scene;
        for candidate in &mut again.candidates {
            candidate.was_out = first.out.contains_key(&candidate.address);
        }
        prop_assert_eq!(again.judge(), first);
    }
}

/// A step of a run with three targets.
#[derive(Clone, Debug)]
enum Step {
    /// An attempt at this target begins, and ends with this result after this time in milliseconds.
    Attempt(u8, u64, Reply),
    /// This target leaves the source and returns.
    Relist(u8),
    /// This time passes, in milliseconds.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let replies = vec![
        Reply::Success,
        Reply::Success,
        Reply::Alive(429),
        Reply::Failure(Failure::Refused),
        Reply::Failure(Failure::TimedOut),
        Reply::Failure(Failure::TimedOut),
        Reply::Failure(Failure::Status(500)),
    ];
    prop_oneof![
        12 => (1..=3u8, 1..1_500u64, select(replies)).prop_map(|(n, takes, reply)| Step::Attempt(n, takes, reply)),
        1 => (1..=3u8).prop_map(Step::Relist),
        8 => (1..1_200u64).prop_map(Step::Pass),
    ]
}

/// Runs steps. Attempts end in chronological order.
struct Run {
    probes: Probes,
    now: u64,
    pending: BTreeMap<(u64, usize), (u8, u64, Reply)>,
    begun: usize,
    /// The targets that have answered since they were listed.
    seen_well: BTreeSet<u8>,
    /// For each target that became down and is not well yet: when it last failed.
    down_since: BTreeMap<u8, u64>,
}

impl Run {
    fn new() -> Self {
        Self {
            probes: Probes::new(3),
            now: 0,
            pending: BTreeMap::new(),
            begun: 0,
            seen_well: BTreeSet::new(),
            down_since: BTreeMap::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Attempt(n, takes, reply) => {
                let is_same = |(other, begun, _): &(u8, u64, Reply)| other == n && *begun == self.now;
                if self.pending.values().any(is_same) {
                    return;
                }
                self.begun += 1;
                self.probes.targets.begin(target(*n), at(self.now));
                self.pending
                    .insert((self.now + takes, self.begun), (*n, self.now, reply.clone()));
            }
            Step::Relist(n) => {
                let others = (1..=3).filter(|other| other != n).map(target).collect();
                self.probes.targets.list(&others, at(self.now));
                self.probes
                    .targets
                    .list(&(1..=3).map(target).collect(), at(self.now));
                self.pending.retain(|_, (other, ..)| other != n);
                self.seen_well.remove(n);
                self.down_since.remove(n);
            }
            Step::Pass(time) => {
                let until = self.now + time;
                while let Some(first) = self.pending.first_entry().filter(|first| first.key().0 <= until) {
                    self.now = first.key().0;
                    let (n, begun, reply) = first.remove();
                    self.end(n, begun, reply);
                }
                self.now = until;
            }
        }
    }

    fn end(&mut self, n: u8, begun: u64, reply: Reply) {
        let before = self.probes.targets.get(target(n)).unwrap().clone();
        if !matches!(reply, Reply::Failure(_)) {
            self.seen_well.insert(n);
        }
        let is_failure = matches!(reply, Reply::Failure(_));
        self.probes.targets.end(target(n), at(begun), at(self.now), reply);
        let phase = self.probes.phase(n);
        let is_seen_well = self.seen_well.contains(&n);
        assert!(is_seen_well || phase == Phase::New, "{n} is {phase:?}");
        assert!(!is_seen_well || phase != Phase::New, "{n} is {phase:?}");
        if is_failure && before.answered.is_some_and(|answered| at(begun) <= answered) {
            assert_eq!(
                phase, before.phase,
                "a failure older than the last response changed the phase"
            );
        }
        match phase {
            Phase::Down if is_failure => _ = self.down_since.insert(n, self.now),
            Phase::Well => {
                if let Some(since) = self.down_since.remove(&n) {
                    assert!(self.now - since >= 3_000, "a rise of {} ms", self.now - since);
                }
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Rule: 7.new, 7.older-failure, 7.rise
    #[test]
    fn phases_follow_the_rules_whatever_happens(steps in vec(step(), 1..120)) {
        let mut run = Run::new();
        for step in &steps {
            run.take(step);
        }
    }

    /// Rule: 7.contrast, 7.new
    #[test]
    fn an_endpoint_taken_out_was_well_and_has_contrast(steps in vec(step(), 1..120)) {
        let mut run = Run::new();
        let candidates = [1, 2, 3].map(|n| Candidate { address: address(n), was_out: false });
        let leadership = Leadership { may_take_out: true, is_new: false };
        for step in &steps {
            run.take(step);
            let suspects = run.probes.targets.suspects();
            if let Some(value) = run.probes.hearing.suspect(&suspects) {
                run.probes.hearing.stored(&value, at(run.now));
            }
            let report = run.probes.targets.report(at(run.now), &run.probes.hearing, leadership);
            for address in judge(&candidates, &[API].into(), &report).out.keys() {
                let n = (1..=3).find(|n| super::address(*n) == *address).unwrap_or_default();
                prop_assert!(run.seen_well.contains(&n));
                prop_assert!(!report.targets[&target(n)].contrasts.is_empty());
                prop_assert!(run.probes.hearing.had_time_to_object(target(n), at(run.now)));
            }
        }
    }

    /// Rule: 7.clearly-well
    #[test]
    fn responses_of_similar_duration_leave_no_doubt(quickest in 0..2_000u64, more in vec(0..=250u64, 1..50)) {
        let mut probes = Probes::new(1);
        let mut begun = 0;
        probes.attempt(1, begun, begun + quickest, Reply::Success);
        for more in more {
            begun += 3_000;
            let ended = begun + quickest + more;
            probes.targets.begin(target(1), at(begun));
            prop_assert!(probes.targets.is_clearly_well(target(1), at(ended)));
            probes.targets.end(target(1), at(begun), at(ended), Reply::Success);
        }
    }

    /// Rule: 7.clearly-well
    #[test]
    fn an_attempt_longer_than_any_response_casts_doubt(answers in vec(0..1_000u64, 1..50)) {
        let mut probes = Probes::new(1);
        for (n, took) in (0..).zip(&answers) {
            probes.attempt(1, n * 1_000, n * 1_000 + took, Reply::Success);
        }
        probes.targets.begin(target(1), at(900_000));
        let longest = answers.iter().max().copied().unwrap_or_default();
        prop_assert!(!probes.targets.is_clearly_well(target(1), at(900_251 + longest)));
    }

    /// Rule: 7.forged
    #[test]
    fn forged_text_confirms_only_the_round_that_it_names(text in "[0-9.:,;=\\[\\]a-f-]{0,40}", key in "[a-z2-7]{0,12}") {
        let mut hearing = Hearing::default();
        hearing.suspect(&[target(1)].into());
        let annotations: BTreeMap<_, _> = [
            (SUSPECTED.to_owned(), text.clone()),
            (format!("objection.endpoint-copier/{key}"), text.clone()),
        ].into();
        hearing.see(&annotations, at(0));
        let confirms = suspicions(&text).get(&target(1)) == Some(&1);
        prop_assert_eq!(hearing.had_time_to_object(target(1), at(300)), confirms);
        prop_assert!(Peer::new("a").answer(&text, |_| false, &[].into(), at(0)).is_none());
    }
}
