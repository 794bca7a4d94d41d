//! The rules of an API server that the operator or kubectl depends on. Each one is a test of requests and responses.
//!
//! Every rule runs twice: on the testbed as a separate test, and on a real kube-apiserver, all in one test with one
//! server, because a start takes seconds and nextest runs every test in its own process. The real half needs
//! `KUBEBUILDER_ASSETS`. Without it, the test prints that it is skipped.

#![expect(clippy::similar_names, reason = "a path and a patch are what they are called")]

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
        it_gets_a_uid_a_version_and_a_time
        a_taken_name_is_already_exists
        generate_name_makes_a_name
        a_resource_version_is_refused
        a_missing_namespace_is_not_found
        a_terminating_namespace_is_forbidden_with_a_cause
        another_namespace_in_the_body_is_a_bad_request
        another_kind_in_the_body_is_a_bad_request
        bad_json_is_a_bad_request
        a_wrong_type_is_a_bad_request
        an_unknown_media_type_is_refused
        an_object_without_a_name_is_invalid
        names_are_dns_names
        a_long_field_manager_is_invalid
        server_side_fields_of_the_body_are_ignored
    }
    update {
        a_put_replaces_the_object_and_raises_the_version
        a_stale_version_is_a_conflict
        another_uid_is_a_conflict
        a_missing_slice_is_not_found
        a_missing_lease_is_created
        a_missing_lease_with_a_uid_is_a_conflict
        a_lease_needs_its_version
        a_slice_does_not_need_its_version
        nothing_changed_is_not_a_write
        another_name_in_the_body_is_a_bad_request
        uid_and_creation_time_stay
    }
    patch {
        merge_sets_and_removes
        merge_replaces_lists
        a_stale_version_is_a_conflict
        another_uid_is_invalid
        a_missing_object_is_not_found
        nothing_changed_is_not_a_write
        json_patch_goes_step_by_step
        strategic_merge_annotates
        strategic_merge_changes_one_condition
        another_media_type_is_refused
        bad_json_is_a_bad_request
        the_status_subresource_changes_only_the_status
    }
    delete {
        a_slice_answers_success_with_its_uid
        a_service_answers_itself
        a_missing_object_is_not_found
        another_uid_is_a_conflict
        another_version_is_a_conflict
        matching_preconditions_delete
        finalizers_hold_the_object_until_they_are_gone
        no_finalizer_is_added_while_it_goes
        a_collection_goes_by_selector
    }
    list {
        objects_come_by_namespace_and_name
        items_do_not_say_their_kind
        label_selectors_select
        a_selector_may_have_60_kib
        field_selectors_select_by_name
        unknown_selectors_are_bad_requests
        chunks_are_of_one_snapshot
        a_list_from_the_cache_is_whole
        an_exact_version_shows_the_past
        a_future_version_times_out
        a_bad_version_is_a_bad_request
        a_match_without_a_version_is_invalid
        a_get_of_any_version_works
        a_list_of_metadata_has_no_specs
        a_table_has_columns_and_rows
    }
    watch {
        changes_come_in_order_with_their_versions
        a_watch_without_a_version_starts_at_the_present
        an_object_that_leaves_the_selector_is_deleted
        a_namespace_and_a_name_select
        it_ends_cleanly_at_its_timeout
        a_bookmark_comes_before_the_end
        the_end_of_the_present_is_marked
        initial_events_need_a_match
        a_bad_version_is_an_error
    }
    service {
        defaults_of_a_cluster_ip
        it_has_no_generation
        defaults_of_a_load_balancer
        node_ports_are_unique_and_kept
        a_headless_service_without_selector_is_dual_stack
        an_external_name_has_no_ip
        ports_are_required
        several_ports_need_names
        the_name_is_a_dns_label
        the_cluster_ip_stays
        node_ports_go_with_the_type
        unknown_values_are_refused
        families_follow_the_policy
        a_second_family_comes_and_goes
    }
    node {
        it_is_outside_of_any_namespace
        its_status_has_a_path_of_its_own
        labels_select
    }
    slice {
        defaults
        the_address_type_is_required_and_known
        the_address_type_stays
        special_addresses_are_refused
        addresses_are_of_the_family
        limits
        port_names_are_unique_labels
        labels_and_annotations_have_a_syntax
        annotations_have_a_total_size
        owners_are_complete
        one_owner_is_the_controller
        the_generation_counts_content_and_labels
    }
    lease {
        an_empty_holder_is_allowed
        a_lease_may_be_empty
        numbers_are_in_range
        times_have_six_digits
        times_of_the_year_9999_are_stored
        one_of_two_updates_of_one_version_wins
    }
    events {
        both_views_show_one_event
        field_selectors_find_the_events_of_a_service
        the_newer_view_is_strict
        the_namespace_is_that_of_the_object
    }
    paths {
        an_unknown_resource_is_not_found
        a_wrong_method_is_not_allowed
        no_token_is_unauthorized
        an_unknown_token_is_unauthorized
        discovery_lists_the_resources
        version_and_health_paths_exist
        an_unsupported_media_type_is_not_acceptable
    }
    reviews {
        a_valid_token_has_a_user
        an_unknown_token_has_no_user
        a_token_is_required
        the_right_to_a_path_is_reviewed
        a_review_can_only_be_created
    }
}

mod real {
    use crate::{RULES, Target};
    use futures::{StreamExt, stream};
    use testbed::real::{RealCluster, assets};

    /// The number of rules that run at a time.
    const AT_ONCE: usize = 8;

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
            .buffer_unordered(AT_ONCE)
            .filter_map(async |f| f)
            .collect()
            .await;
        assert!(
            failed.is_empty(),
            "rules that fail on a real API server: {failed:?}"
        );
    }
}
