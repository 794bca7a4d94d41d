//! Generates docs/reference/annotations.md from the constants in the core, and checks that the file is up to date.

use endpoint_copier_core::model::{annotation, label, provenance};

use crate::generated::check;
use crate::table::{code, generated_from, table};

const ON_A_SERVICE: &str = "\
# Annotations and labels

## Annotations on a managed Service

Set these annotations on the Service that should get copies. An annotation takes precedence over a flag. The operator
ignores an annotation with an empty value, except `endpoint-copier/enabled`. It does not trim values. Names and
namespaces must be DNS labels. Names in parentheses, such as `InvalidAnnotation`, are [findings](events.md).

";

const ON_A_SOURCE: &str = "
## Annotations on a source

Set this annotation on a Service that other Services copy; see [Copy a source in another
namespace](../how-to/copy-across-namespaces.md).

";

const ON_A_COPY: &str = "
## Annotations on a copy

The operator sets these annotations on the EndpointSlices that it creates. Do not edit them: the operator uses some of
them to recognize its copies.

";

const LABELS: &str = "
## Labels on a copy

";

fn page() -> String {
    let rows = |known: &[(&str, &str)]| {
        let rows = known
            .iter()
            .map(|(name, meaning)| [code(name), (*meaning).to_owned()]);
        rows.collect::<Vec<_>>()
    };
    generated_from("`crates/core/src/model`")
        + ON_A_SERVICE
        + &table(["annotation", "value"], rows(&annotation::REFERENCE))
        + ON_A_SOURCE
        + &table(["annotation", "value"], rows(&annotation::OF_SOURCES))
        + ON_A_COPY
        + &table(["annotation", "value"], rows(&provenance::REFERENCE))
        + LABELS
        + &table(["label", "value"], rows(&label::REFERENCE))
}

#[test]
fn annotations_page_is_up_to_date() {
    check("docs/reference/annotations.md", &page());
}
