"""The attacks on sealed records and on the FHIR server, each with a name and one test.

Goal: every way that somebody has thought of to read, lose, forge, frame or bring back is tried, and fails as the
documents say it does. Method: no mocks. The attacker is real code as well: contracts on the ledger of ``world``,
keyholders with audits on disk, the SDK's readers, folders, token stores, doors and nodes with sockets. What an attacker
could do with the secrets it is granted is done with these secrets. A refusal counts with its code only.

``docs/concepts/security.md`` says of each what it is; ``tests/docs/test_attacks.py`` sees that this list, that page and
the tests name the same cases. An attack that is found later gets a test here first. ``test_reprs.py`` beside them
sees that nothing secret is printed. Every case:

**The ceremonies of the consortium key** (``test_attack_ceremony.py``)

- ``test_rogue_key_in_the_join_round``
- ``test_key_of_another_taken_over_in_the_join_round``
- ``test_identity_or_non_canonical_point_in_a_ceremony``
- ``test_somebody_who_was_not_chosen_takes_part``
- ``test_a_minority_alone_makes_a_key``
- ``test_bad_deal_to_one_holder``
- ``test_false_complaint_to_disqualify_an_honest_dealer``
- ``test_complaint_of_another_holder_repeated``
- ``test_silence_at_extraction_to_bias_the_key``
- ``test_lying_extraction``
- ``test_false_complaint_to_expose_an_honest_dealer``
- ``test_censored_extractions_put_the_key_on_the_ledger``
- ``test_transcript_of_another_ceremony_replayed``
- ``test_dealer_that_reshares_another_share``
- ``test_second_deal_after_the_others_were_seen``
- ``test_round_closed_before_its_time``

**Capsules, blindings, and too few shares** (``test_attack_capsules.py``)

- ``test_capsule_moved_to_another_record``
- ``test_capsule_moved_to_another_pseudonym``
- ``test_label_confusion_with_a_lower_grade``
- ``test_label_confusion_with_another_category_version_day_or_network``
- ``test_capsule_rerandomised_to_be_opened_as_another``
- ``test_identity_point_in_a_capsule``
- ``test_non_canonical_point_or_scalar_in_a_capsule``
- ``test_q_chosen_from_another_records_r``
- ``test_q_reused_for_two_records``
- ``test_q_in_a_second_spelling``
- ``test_blinding_of_another_requester_replayed``
- ``test_blinding_of_an_older_ticket_replayed``
- ``test_identity_or_non_canonical_blinding``
- ``test_blinding_that_undoes_the_capsule``
- ``test_two_of_five_shares``
- ``test_old_epochs_share_mixed_with_new_ones``
- ``test_keyholder_that_was_put_out_answers_with_its_old_share``
- ``test_answers_overheard_without_q``

**Tickets** (``test_attack_tickets.py``)

- ``test_invented_ticket``
- ``test_ticket_of_another_requester``
- ``test_refused_ticket``
- ``test_expired_ticket``
- ``test_revoked_ticket``
- ``test_ticket_of_another_record``
- ``test_ticket_of_another_patient``
- ``test_ticket_for_research``
- ``test_ticket_after_the_grants_ancestor_died``
- ``test_ticket_of_a_doctor_who_was_dismissed``
- ``test_ticket_of_a_stolen_key_after_rotation``
- ``test_above_the_ceiling_with_the_gatekeepers_help``
- ``test_older_version_of_a_regraded_record``
- ``test_newer_version_under_a_lower_grade``
- ``test_version_zero_as_a_wildcard``
- ``test_keyholder_behind_the_ledger_shown_a_ticket``
- ``test_stale_chain_that_keeps_a_ticket_alive``
- ``test_rate_limit_exhausted_by_a_stranger``
- ``test_false_report_of_shares_in_a_patients_log``

**Keyholders that lie, and honest ones that are framed** (``test_attack_shares.py``)

- ``test_signed_false_share``
- ``test_unsigned_garbage_share``
- ``test_share_that_is_the_identity_or_no_point``
- ``test_share_of_another_record_passed_off``
- ``test_share_replayed_from_another_ticket``
- ``test_share_under_a_neighbours_number_or_another_epoch``
- ``test_share_of_a_point_that_nobody_asked_for``
- ``test_three_liars_of_five``
- ``test_framing_an_honest_keyholder``
- ``test_liar_that_changes_its_key_before_it_is_accused``
- ``test_framing_with_a_key_that_was_given_up``
- ``test_framing_with_a_share_of_an_earlier_epoch``
- ``test_share_from_an_old_file_that_would_convict_its_holder``
- ``test_answer_opened_by_another``
- ``test_answer_of_one_keyholder_sent_as_anothers``
- ``test_session_opening_passed_on_to_another_keyholder``
- ``test_statement_signature_used_for_something_else``
- ``test_restricted_record_smuggled_into_a_batch``

**Sealed objects, the vault and the index** (``test_attack_objects.py``)

- ``test_chunks_swapped``
- ``test_object_cut_short``
- ``test_object_extended``
- ``test_chunk_of_another_object``
- ``test_object_of_another_record_or_version``
- ``test_object_that_opens_under_two_keys``
- ``test_vault_operator_swaps_ciphertext``
- ``test_vault_operator_gives_an_older_version``
- ``test_vault_operator_alters_one_copy``
- ``test_writer_that_anchors_other_contents``
- ``test_stranger_takes_or_fills_the_vault``
- ``test_malicious_node_of_the_distributed_store``
- ``test_dictionary_attack_on_the_index``
- ``test_dictionary_attack_with_another_patients_key``
- ``test_token_search_without_a_ticket``
- ``test_key_of_a_graded_index_without_the_grade``

**Recovery, cards and rotation** (``test_attack_recovery.py``)

- ``test_recovery_by_a_rogue_registrar_vetoed``
- ``test_recovery_by_a_registrar_whom_the_patient_excluded``
- ``test_recovery_by_the_registrar_of_another_hospital``
- ``test_guardian_minority``
- ``test_guardians_approve_one_key_and_get_another``
- ``test_registrar_and_one_guardian_against_the_owner``
- ``test_thief_of_the_key_puts_the_guardians_out``
- ``test_replayed_recovery_start``
- ``test_recovery_to_somebody_elses_key``
- ``test_cards_of_another_pseudonym``
- ``test_fewer_cards_than_needed``
- ``test_representative_takes_over_the_key``
- ``test_rotation_to_a_key_that_did_not_agree``
- ``test_old_key_after_recovery``

**Erasure** (``test_attack_erasure.py``)

- ``test_erasure_ordered_by_somebody_else``
- ``test_receipts_by_a_non_member``
- ``test_erased_object_put_again``
- ``test_erased_record_brought_back_by_a_backup``
- ``test_somebody_elses_object_anchored_to_have_it_destroyed``
- ``test_somebody_elses_chart_erased_through_its_record_id``
- ``test_share_of_an_erased_record``
- ``test_new_version_of_an_erased_record``

**Signatures and suites** (``test_attack_suites.py``)

- ``test_suite_confusion_of_a_signature``
- ``test_suite_confusion_of_a_party_on_the_ledger``
- ``test_member_of_the_other_suite_let_in``
- ``test_signature_malleability_of_sm2``
- ``test_signature_malleability_of_p256_and_ed25519``
- ``test_key_for_which_anything_is_signed``
- ``test_object_of_the_other_suite``

**The FHIR server** (``test_attack_fhir.py``)

- ``test_hidden_result_drawn_into_a_report_of_ones_own``
- ``test_reference_laid_out_for_a_result_to_come``
- ``test_grade_of_ones_own_resource_as_an_oracle``
- ``test_chart_of_ones_own_resource_as_an_oracle``
- ``test_id_of_something_hidden_claimed_in_a_transaction``
- ``test_conditional_reference_to_something_hidden``
- ``test_patch_by_an_app_that_may_only_write``
- ``test_patch_test_on_something_hidden``
- ``test_pages_that_count_what_the_scopes_hide``
- ``test_history_that_counts_what_the_scopes_hide``
- ``test_old_version_that_the_scopes_do_not_cover``
- ``test_types_read_through_types_that_scopes_open``
- ``test_includes_of_what_the_scopes_hide``
- ``test_reading_by_counting``
- ``test_reading_by_listening``
- ``test_probing_by_batch``
- ``test_beats_that_tell_of_hidden_writes``
- ``test_stolen_page_link``
- ``test_export_of_another_caller``
- ``test_all_downloads_held_by_one_caller``
- ``test_chains_that_multiply``
- ``test_bodies_that_break_parsers``
- ``test_patches_that_grow``
- ``test_narrative_that_runs_in_a_browser``
- ``test_errors_that_repeat_what_was_sent``
- ``test_malicious_member_gives_what_breaks_or_runs``
- ``test_remote_reading_beyond_the_tokens_scopes``

**SMART on FHIR** (``test_attack_smart.py``)

- ``test_code_sent_to_the_attackers_address``
- ``test_two_requests_in_one``
- ``test_pkce_downgraded_when_asking``
- ``test_overheard_code_without_its_verifier``
- ``test_code_of_another_app``
- ``test_code_used_a_second_time``
- ``test_mix_up_of_two_servers``
- ``test_approval_collected_by_another_browser``
- ``test_launch_used_again_or_by_another_app``
- ``test_launched_app_asks_for_other_patients_consents``
- ``test_algorithm_confusion``
- ``test_assertion_replayed_or_for_somebody_else``
- ``test_refresh_token_used_again``
- ``test_refresh_token_of_another_app``
- ``test_token_of_one_kind_used_as_another``
- ``test_token_after_the_grant_was_revoked``
- ``test_token_after_its_app_was_registered_for_less``
- ``test_tickets_brought_along_by_an_app``
- ``test_app_reads_another_patient``
- ``test_introspection_of_somebody_elses_token``
- ``test_counting_under_a_ticket_leaves_a_line_in_the_patients_log``
- ``test_secrets_in_files_and_logs``
- ``test_foreign_page_reads_with_a_script``
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from sealed_world import SealedWorld


@pytest.fixture
def sealed(tmp_path: Path) -> Iterator[SealedWorld]:
    """A fresh world with five keyholders, of whom three suffice."""
    world = SealedWorld(tmp_path)
    yield world
    world.close()
