"""The surroundings of a model, as data: the rows of docs/surroundings.md, each with the tests that hold it."""

from __future__ import annotations

from dataclasses import dataclass

WORKS, REFUSED = "works", "refused"


@dataclass(frozen=True)
class Row:
    """One surrounding.

    Attributes:
        name: as the document calls it.
        verdict: `WORKS` or `REFUSED`.
        tests: functions of the test files in this folder.
        needs: what a test needs that the development extra does not bring; without it the test is skipped.
    """

    name: str
    verdict: str
    tests: tuple[str, ...]
    needs: str = ""


ROWS = (
    Row(
        "PEFT: LoRA and other adapters of the weights",
        WORKS,
        (
            "test_an_adapted_model_prunes_as_it_masks",
            "test_the_model_inside_may_be_compressed_instead_but_not_both",
            "test_an_adapter_is_switched_off_and_merged_under_the_handle",
            "test_ways_of_generating_that_would_go_wrong_are_refused_through_the_wrapper_too",
        ),
    ),
    Row("PEFT: prompt tuning, prefix tuning, P-tuning", REFUSED, ("test_virtual_tokens_in_front_of_the_prompt_are_refused",)),
    Row("quantised by torchao", WORKS, ("test_a_model_quantised_by_torchao_prunes_as_it_masks",), needs="torchao"),
    Row(
        "quantised by bitsandbytes",
        WORKS,
        ("test_a_model_quantised_by_bitsandbytes_prunes_as_it_masks", "test_linear_layers_of_another_class_do_not_matter"),
        needs="bitsandbytes",
    ),
    Row(
        "`device_map` over two devices",
        WORKS,
        ("test_layers_on_two_imitated_devices_change_nothing", "test_layers_on_two_devices_change_nothing"),
    ),
    Row(
        "`device_map` with offload to the disk or to main memory",
        WORKS,
        (
            "test_layers_on_the_disk_change_nothing",
            "test_a_model_partly_on_the_disk_prunes_as_it_masks",
            "test_a_handle_comes_before_the_dispatch_as_well",
        ),
    ),
    Row(
        "`torch.compile` of the call of the model or its backbone",
        REFUSED,
        (
            "test_a_compiled_call_is_refused_at_once",
            "test_a_model_in_a_compiled_wrapper_is_refused_at_once",
            "test_prompts_in_a_compiled_wrapper_are_refused",
        ),
    ),
    Row(
        "`torch.compile` of the model's forward, its decoder or decoder layers, with a static cache",
        WORKS,
        (
            "test_compiled_modules_decode_on_a_static_cache",
            "test_a_model_compiled_in_place_under_the_handle_generates_but_takes_no_prompt_by_hand",
        ),
    ),
    Row(
        "`torch.compile` of the model's forward, its decoder, a decoder layer or its attention, with the dynamic cache",
        REFUSED,
        (
            "test_a_compiled_decoder_wants_a_static_cache",
            "test_a_decoder_compiled_under_the_handle_is_refused_before_any_layer_runs",
            "test_a_decoder_that_does_not_call_its_layers_is_not_taken_for_compressed",
        ),
    ),
    Row("`torch.compile` of the vision tower or of MLPs alone", WORKS, ("test_the_tower_and_the_mlps_may_be_compiled",)),
    Row('`pipeline("image-text-to-text")`', WORKS, ("test_the_pipeline_says_what_generate_says",)),
    Row("streamers", WORKS, ("test_streamers_see_every_token_as_it_comes",)),
    Row("`inputs_embeds` without ids", REFUSED, ("test_embeddings_without_ids_are_refused_and_leave_nothing",)),
    Row(
        "`output_attentions`",
        WORKS,
        (
            "test_attention_maps_are_those_of_what_stayed",
            "test_attention_maps_and_a_method_that_reads_attention_do_not_disturb_each_other",
        ),
    ),
    Row(
        "prompt-lookup, early-exit and multi-token-prediction decoding; chunked prefill",
        REFUSED,
        (
            "test_guessing_and_chunks_are_refused_wherever_they_are_asked_for",
            "test_an_option_that_the_call_takes_back_is_not_refused",
        ),
    ),
    Row("assisted decoding", REFUSED, ("test_an_assistant_is_refused_by_name_and_by_position",)),
    Row("`generate_batch` (continuous batching)", REFUSED, ("test_continuous_batching_is_refused_from_every_side_and_given_back",)),
    Row("dynamic cache", WORKS, ("test_the_dynamic_cache_prunes_as_it_masks_whoever_makes_it",)),
    Row(
        "static cache, and the decoding step that `generate` compiles for it",
        WORKS,
        ("test_the_static_cache_prunes_as_it_masks_whoever_makes_it", "test_a_step_on_a_static_cache_waits_for_nothing"),
    ),
    Row(
        "quantised, offloaded and sliding caches",
        REFUSED,
        (
            "test_other_caches_are_refused_before_any_layer_runs",
            "test_other_caches_are_refused_by_their_name_in_generate",
            "test_a_static_cache_that_reaches_the_backbone_by_itself_is_refused",
            "test_text_alone_still_goes_into_any_cache",
            "test_a_decoder_with_a_sliding_window_is_refused_at_once",
        ),
    ),
)
