// Checkpoints of text and images whose text model osp reads: its configuration stands in
// config.json under text_config, and its tensors under a prefix, beside those of an image encoder,
// which are left out. Text without images gets the same logits.
//
// Tested by tests/python/test_wrapped_models.py.
#pragma once

#include <string>

#include "osp/base/json.h"
#include "osp/model/weight_files.h"

namespace osp {

// True for the config.json of such a checkpoint whose text model is of a family that osp reads.
bool wraps_text_model(const Json& config_json);

// The config.json that the text model would have alone: text_config with the family's defaults, as
// published files leave out what transformers would fill in, and with the keys that stand beside
// it. Error(damaged) if text_config is no object, Error(unsupported) for a text model of another
// kind; `where` begins the message.
Json text_model_config(const Json& config_json, const std::string& where);

// True if text_config and what stands beside it say different things about a tied head: versions of
// transformers write a default beside what the model has. The head is tied where files have none.
bool contradicts_itself_on_tying(const Json& config_json);

// Leaves the tensors of the text model, under the names that they would have alone. Error(damaged)
// for two tensors of one name.
void keep_text_tensors(WeightFiles& weights);

}  // namespace osp
