//! GET and LIST.

use crate::target::{Target, annotated, service, slice, version};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

fn names(list: &Value) -> Vec<&str> {
    list["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| o["metadata"]["name"].as_str().unwrap())
        .collect()
}

async fn make(t: &Target, names: &[&str]) {
    for name in names {
        t.made("endpointslices", &slice(name)).await;
    }
}

pub async fn objects_are_sorted_by_namespace_and_name(t: Target) {
    make(&t, &["c", "a", "b"]).await;
    let list = t.get(&t.all("endpointslices")).await.expect(200);
    assert_eq!(names(&list), ["a", "b", "c"]);
    let all = t
        .get("/apis/discovery.k8s.io/v1/endpointslices")
        .await
        .expect(200);
    let keys: Vec<(&str, &str)> = all["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|o| {
            (
                o["metadata"]["namespace"].as_str().unwrap(),
                o["metadata"]["name"].as_str().unwrap(),
            )
        })
        .collect();
    assert!(keys.is_sorted(), "{keys:?}");
    assert!(keys.contains(&(t.namespace.as_str(), "b")));
}

pub async fn items_of_a_list_have_no_kind(t: Target) {
    make(&t, &["a"]).await;
    let list = t.get(&t.all("endpointslices")).await.expect(200);
    assert_eq!(list["kind"], "EndpointSliceList");
    assert_eq!(list["apiVersion"], "discovery.k8s.io/v1");
    assert_eq!(list["items"][0]["kind"], Value::Null);
    assert!(version(&list) >= version(&list["items"][0]));
    let empty = t.get(&t.all("leases")).await.expect(200);
    assert_eq!(empty["items"], json!([]));
}

pub async fn label_selectors_select_objects(t: Target) {
    for (name, labels) in [
        ("a", json!({"x": "1", "example.com/y": ""})),
        ("b", json!({"x": "2"})),
        ("c", json!({})),
    ] {
        let mut object = slice(name);
        object["metadata"]["labels"] = labels;
        t.made("endpointslices", &object).await;
    }
    for (selector, wanted) in [
        ("x%3D1", "a"),
        ("x%3D%3D1", "a"),
        ("x!%3D1", "b c"),
        ("x%20in%20(1,2)", "a b"),
        ("x%20in%20(2,%203)", "b"),
        ("x%20notin%20(1)", "b c"),
        ("x", "a b"),
        ("!x", "c"),
        ("example.com/y", "a"),
        ("example.com/y%3D", "a"),
        ("x,!example.com/y", "b"),
        ("", "a b c"),
    ] {
        let path = format!("{}?labelSelector={selector}", t.all("endpointslices"));
        assert_eq!(
            names(&t.get(&path).await.expect(200)).join(" "),
            wanted,
            "{selector}"
        );
    }
}

pub async fn a_selector_of_58_kib_is_accepted(t: Target) {
    make(&t, &["a"]).await;
    let values: Vec<_> = (0..900).map(|number| format!("{number:0>63}")).collect();
    let list = t
        .get(&format!(
            "{}?labelSelector=x%20notin%20%28{}%29",
            t.all("endpointslices"),
            values.join("%2C")
        ))
        .await
        .expect(200);
    assert_eq!(names(&list), ["a"]);
}

pub async fn field_selectors_select_by_name(t: Target) {
    make(&t, &["a", "b"]).await;
    let path = format!("{}?fieldSelector=metadata.name%3Db", t.all("endpointslices"));
    assert_eq!(names(&t.get(&path).await.expect(200)), ["b"]);
    let path = format!("{}?fieldSelector=metadata.name!%3Db", t.all("endpointslices"));
    assert_eq!(names(&t.get(&path).await.expect(200)), ["a"]);
    let path = format!(
        "/apis/discovery.k8s.io/v1/endpointslices?fieldSelector=metadata.namespace%3D{}",
        t.namespace
    );
    assert_eq!(names(&t.get(&path).await.expect(200)), ["a", "b"]);
}

pub async fn unknown_selectors_are_bad_requests(t: Target) {
    for (resource, query) in [
        ("leases", "fieldSelector=spec.x%3Dy"),
        ("services", "fieldSelector=foo%3Dy"),
        ("leases", "labelSelector=a%20b"),
        ("leases", "labelSelector=-a%3Db"),
    ] {
        t.get(&format!("{}?{query}", t.all(resource)))
            .await
            .fails(400, "BadRequest");
    }
}

pub async fn chunks_of_a_list_are_from_one_snapshot(t: Target) {
    make(&t, &["a", "b", "c"]).await;
    let first = t
        .get(&format!("{}?limit=2", t.all("endpointslices")))
        .await
        .expect(200);
    assert_eq!(names(&first), ["a", "b"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 1);
    let token = first["metadata"]["continue"].as_str().unwrap();
    make(&t, &["d"]).await;
    t.delete(&t.one("endpointslices", "c")).await.expect(200);
    let path = format!("{}?limit=2&continue={token}", t.all("endpointslices"));
    let second = t.get(&path).await.expect(200);
    assert_eq!(names(&second), ["c"]);
    assert_eq!(version(&second), version(&first));
    assert_eq!(second["metadata"]["continue"], Value::Null);
    let bad = format!("{}?limit=2&continue=abc", t.all("endpointslices"));
    t.get(&bad).await.fails(400, "BadRequest");
}

pub async fn a_list_from_the_cache_ignores_the_limit(t: Target) {
    make(&t, &["a", "b"]).await;
    // A list without a version has both. A list from the cache has both too if it requests that version.
    let list = t.get(&t.all("endpointslices")).await.expect(200);
    let newest = version(&list);
    let path = format!("{}?resourceVersion={newest}", t.all("endpointslices"));
    assert_eq!(names(&t.get(&path).await.expect(200)), ["a", "b"]);
    let path = format!("{}?resourceVersion=0&limit=1", t.all("endpointslices"));
    let list = t.get(&path).await.expect(200);
    assert_eq!(names(&list), ["a", "b"]);
    assert_eq!(list["metadata"]["continue"], Value::Null);
}

pub async fn a_list_at_an_exact_version_shows_the_past(t: Target) {
    let made = t.made("endpointslices", &slice("a")).await;
    t.put(&t.one("endpointslices", "a"), &annotated(&made, "1"))
        .await
        .expect(200);
    make(&t, &["b"]).await;
    let query = format!("resourceVersion={}&resourceVersionMatch=Exact", version(&made));
    let list = t
        .get(&format!("{}?{query}", t.all("endpointslices")))
        .await
        .expect(200);
    assert_eq!(names(&list), ["a"]);
    assert_eq!(version(&list["items"][0]), version(&made));
}

pub async fn a_future_version_times_out(t: Target) {
    let path = format!("{}?resourceVersion=99999999", t.all("leases"));
    let status = t.get(&path).await.fails(504, "Timeout");
    assert_eq!(
        status["details"]["causes"][0]["reason"],
        "ResourceVersionTooLarge"
    );
}

/// Older API servers, for example 1.30, answer with 500.
pub async fn a_bad_version_is_a_bad_request(t: Target) {
    let reply = t.get(&format!("{}?resourceVersion=abc", t.all("leases"))).await;
    if reply.code == 500 && t.is_older().await {
        return;
    }
    reply.fails(400, "BadRequest");
}

pub async fn a_version_match_without_a_version_is_invalid(t: Target) {
    let path = format!("{}?resourceVersionMatch=Exact", t.all("leases"));
    t.get(&path).await.invalid(&["resourceVersionMatch"]);
}

pub async fn a_get_accepts_a_version(t: Target) {
    t.made("services", &service("a")).await;
    let read = t.get(&t.one("services", "a")).await.expect(200);
    let path = format!("{}?resourceVersion={}", t.one("services", "a"), version(&read));
    assert_eq!(version(&t.get(&path).await.expect(200)), version(&read));
    t.get(&format!("{}?resourceVersion=0", t.one("services", "b")))
        .await
        .fails(404, "NotFound");
}

pub async fn a_list_of_metadata_has_only_metadata(t: Target) {
    make(&t, &["a", "b"]).await;
    let accept = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1";
    let path = format!("{}?labelSelector=app%21%3Dx", t.all("endpointslices"));
    let response = t
        .send(Method::GET, &path, &[("accept", accept)], Vec::new())
        .await;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let list: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert!(list["metadata"]["resourceVersion"].is_string());
    let items = list["items"].as_array().unwrap();
    let names: Vec<_> = items.iter().map(|item| &item["metadata"]["name"]).collect();
    assert_eq!(names, ["a", "b"]);
    for item in items {
        assert_eq!(item["kind"], "PartialObjectMetadata");
        assert!(item["metadata"]["uid"].is_string() && item.get("endpoints").is_none());
    }
}

pub async fn a_table_has_columns_and_rows(t: Target) {
    make(&t, &["a"]).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let response = t
        .send(
            Method::GET,
            &t.all("endpointslices"),
            &[("accept", accept)],
            Vec::new(),
        )
        .await;
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let table: Value = serde_json::from_slice(&bytes).unwrap();
    assert_eq!(table["kind"], "Table");
    let columns: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["name"].as_str().unwrap())
        .collect();
    assert_eq!(columns, ["Name", "AddressType", "Ports", "Endpoints", "Age"]);
    let cells = table["rows"][0]["cells"].as_array().unwrap();
    assert_eq!(
        cells[..4],
        [json!("a"), json!("IPv4"), json!("6443"), json!("192.0.2.1")]
    );
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
}
