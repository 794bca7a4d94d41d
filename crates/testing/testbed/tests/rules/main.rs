//! The rules that the operator and kubectl expect an API server to follow. Each rule is a test of requests and
//! responses.
//!
//! Every rule runs twice. On the testbed, each rule is a separate test. On a real kube-apiserver, one test runs all
//! rules on one server, because a server takes seconds to start and nextest runs every test in its own process. That
//! test needs `KUBEBUILDER_ASSETS`. If this variable is not set, the test prints that it is skipped.

#![expect(clippy::similar_names, reason = "`path` and `patch` are the right names")]

mod create;
mod delete;
mod events;
mod lease;
mod list;
mod node;
mod patch;
mod paths;
mod reviews;
mod service;
mod slice;
mod target;
mod update;
mod watch;

use futures::future::BoxFuture;
use target::Target;

type Rule = fn(Target) -> BoxFuture<'static, ()>;

/// Names every rule once. The list becomes the tests on the testbed and the table for the real server.
macro_rules! rules {
    ($($file:ident { $($rule:ident)+ })+) => {
        const RULES: &[(&str, Rule)] = &[
            $($((concat!(stringify!($file), "::", stringify!($rule)), |t| Box::pin($file::$rule(t))),)+)+
        ];

        mod testbed {
            $(mod $file {
                $(#[tokio::test]
                async fn $rule() {
                    crate::$file::$rule(crate::Target::testbed().await).await;
                })+
            })+
        }
    };
}

rules! {
    create {
        a_new_object_gets_a_uid_a_version_and_a_time
        a_taken_name_causes_already_exists
        a_name_is_made_from_generate_name
        a_resource_version_is_refused
        a_missing_namespace_is_not_found
        a_create_in_a_terminating_namespace_is_forbidden
        another_namespace_in_the_body_is_a_bad_request
        another_kind_in_the_body_is_a_bad_request
        bad_json_is_a_bad_request
        a_wrong_type_is_a_bad_request
        an_unknown_media_type_is_refused
        an_object_without_a_name_is_invalid
        names_must_be_dns_names
        a_long_field_manager_is_invalid
        fields_that_the_server_sets_are_ignored
    }
    update {
        a_put_replaces_the_object_and_raises_the_version
        a_stale_version_is_a_conflict
        another_uid_is_a_conflict
        a_missing_slice_is_not_found
        a_missing_lease_is_created
        a_missing_lease_with_a_uid_is_a_conflict
        a_put_of_a_lease_needs_its_version
        a_put_of_a_slice_needs_no_version
        a_put_without_a_change_writes_nothing
        another_name_in_the_body_is_a_bad_request
        uid_and_creation_time_do_not_change
    }
    patch {
        a_merge_patch_sets_and_removes_fields
        a_merge_patch_replaces_lists
        a_stale_version_is_a_conflict
        another_uid_is_invalid
        a_missing_object_is_not_found
        a_patch_without_a_change_writes_nothing
        a_json_patch_is_applied_step_by_step
        a_strategic_merge_patch_adds_annotations
        a_strategic_merge_patch_changes_one_condition
        another_media_type_is_refused
        bad_json_is_a_bad_request
        the_status_subresource_changes_only_the_status
    }
    delete {
        the_deletion_of_a_slice_returns_a_status
        the_deletion_of_a_service_returns_the_service
        a_missing_object_is_not_found
        another_uid_is_a_conflict
        another_version_is_a_conflict
        an_object_with_matching_preconditions_is_deleted
        an_object_stays_until_its_finalizers_are_removed
        a_terminating_object_gets_no_new_finalizer
        a_collection_is_deleted_by_selector
    }
    list {
        objects_are_sorted_by_namespace_and_name
        items_of_a_list_have_no_kind
        label_selectors_select_objects
        a_selector_of_58_kib_is_accepted
        field_selectors_select_by_name
        unknown_selectors_are_bad_requests
        chunks_of_a_list_are_from_one_snapshot
        a_list_from_the_cache_ignores_the_limit
        a_list_at_an_exact_version_shows_the_past
        a_future_version_times_out
        a_bad_version_is_a_bad_request
        a_version_match_without_a_version_is_invalid
        a_get_accepts_a_version
        a_list_of_metadata_has_only_metadata
        a_table_has_columns_and_rows
    }
    watch {
        changes_arrive_in_order_with_their_versions
        a_watch_without_a_version_starts_at_the_present
        an_object_that_no_longer_matches_is_shown_as_deleted
        a_namespace_and_a_name_select_objects
        a_watch_ends_cleanly_at_its_timeout
        a_bookmark_arrives_before_the_end
        the_end_of_the_initial_events_is_marked
        initial_events_need_a_version_match
        a_bad_version_is_an_error
    }
    service {
        a_cluster_ip_service_gets_defaults
        a_service_has_no_generation
        a_load_balancer_gets_defaults
        node_ports_are_unique_and_kept
        a_headless_service_without_selector_is_dual_stack
        an_external_name_has_no_ip
        ports_are_required
        several_ports_need_names
        the_name_is_a_dns_label
        the_cluster_ip_cannot_change
        node_ports_are_released_when_the_type_changes
        unknown_values_are_refused
        families_follow_the_policy
        a_second_family_is_added_and_removed
    }
    node {
        a_node_is_in_no_namespace
        the_status_of_a_node_has_its_own_path
        labels_select_nodes
    }
    slice {
        a_slice_gets_defaults
        the_address_type_is_required_and_known
        the_address_type_cannot_change
        special_addresses_are_refused
        addresses_must_be_of_the_family
        the_numbers_of_items_are_limited
        port_names_must_be_unique_labels
        labels_and_annotations_must_be_well_formed
        the_total_size_of_annotations_is_limited
        owners_must_be_complete
        only_one_owner_can_be_the_controller
        the_generation_counts_changes_of_content_and_labels
    }
    lease {
        an_empty_holder_is_allowed
        a_lease_may_be_empty
        numbers_must_be_in_range
        times_must_have_six_fractional_digits
        times_of_the_year_9999_are_stored
        one_of_two_updates_of_one_version_succeeds
    }
    events {
        both_views_show_one_event
        field_selectors_find_the_events_of_a_service
        the_newer_view_rejects_invalid_events
        an_event_must_be_in_the_namespace_of_its_object
    }
    paths {
        an_unknown_resource_is_not_found
        a_wrong_method_is_not_allowed
        a_request_without_a_token_is_unauthorized
        an_unknown_token_is_unauthorized
        discovery_lists_the_resources
        version_and_health_paths_exist
        an_unsupported_media_type_is_not_acceptable
    }
    reviews {
        a_valid_token_has_a_user
        an_unknown_token_has_no_user
        a_token_is_required
        the_permission_for_a_path_is_reviewed
        a_review_can_only_be_created
    }
}

mod real {
    use crate::{RULES, Target};
    use futures::{StreamExt, stream};
    use testbed::real::{RealCluster, assets};

    /// The number of rules that run in parallel.
    const PARALLEL_RULES: usize = 8;

    #[tokio::test]
    async fn every_rule_holds_on_a_real_api_server() {
        if assets().is_none() {
            println!("skipped: needs KUBEBUILDER_ASSETS (a folder with etcd and kube-apiserver)");
            return;
        }
        let cluster = RealCluster::start(1).await.expect("a real API server");
        let results = stream::iter(RULES.iter().enumerate()).map(|(number, (name, rule))| {
            let target = Target::real(&cluster, number);
            async move {
                let failed = tokio::spawn(rule(target.await)).await.is_err();
                println!("{} real::{name}", if failed { "FAILED" } else { "ok" });
                failed.then_some(*name)
            }
        });
        let failed: Vec<&str> = results
            .buffer_unordered(PARALLEL_RULES)
            .filter_map(async |f| f)
            .collect()
            .await;
        assert!(
            failed.is_empty(),
            "rules that fail on a real API server: {failed:?}"
        );
    }
}
