//! Random schedules in which sources in other namespaces require consent, which is given and withdrawn.

use simulation::coverage::Coverage;
use simulation::run::held;
use simulation::schedule::Schedule;

#[test]
fn copies_with_consent_stay_and_those_without_are_deleted() {
    let mut all = Coverage::default();
    for seed in 0..40 {
        all.merge(&held(seed, Schedule::with_consent(seed)).coverage);
    }
    for what in ["consent given", "consent withdrawn", "delete", "create"] {
        assert!(all.of(what) > 40, "{what}: {}", all.of(what));
    }
    let beside = all.of("consent withdrawn while names of sources change");
    assert!(beside > 8, "{beside}");
}
