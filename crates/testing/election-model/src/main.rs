//! Checks the model within large bounds. `make model` runs this program.

use election_model::{Begin, Bound, check};

fn main() {
    let bound = |begin, horizon, losses, jumps, edits, stops, repeats| Bound {
        begin,
        horizon,
        losses,
        jumps,
        edits,
        stops,
        repeats,
    };
    let bounds = [
        bound(Begin::Nothing, 2, 1, 0, 0, 0, 0),
        bound(Begin::Nothing, 3, 0, 0, 0, 0, 0),
        bound(Begin::Led, 6, 0, 0, 0, 0, 0),
        bound(Begin::Led, 4, 1, 1, 0, 0, 0),
        bound(Begin::Led, 3, 2, 0, 0, 0, 0),
        bound(Begin::Led, 4, 0, 0, 1, 0, 0),
        bound(Begin::Led, 3, 1, 0, 1, 0, 0),
        bound(Begin::Led, 4, 0, 0, 0, 1, 0),
        bound(Begin::Led, 3, 0, 0, 1, 1, 0),
        bound(Begin::Led, 5, 0, 0, 0, 0, 2),
        bound(Begin::Led, 4, 1, 0, 0, 0, 1),
        bound(Begin::Led, 3, 1, 0, 0, 0, 2),
    ];
    let mut holds = true;
    let mut states = 0;
    for bound in bounds {
        let findings = check(bound, None);
        println!("{bound}: {findings}");
        holds &= findings.counterexample.is_none();
        states += findings.states;
    }
    println!("{states} states");
    std::process::exit(i32::from(!holds));
}
