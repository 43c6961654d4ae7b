// What the metadata of a GGUF file ask for beyond what osp computes: keys of the file's
// architecture that osp neither follows nor knows to inform alone.
#pragma once

#include <string_view>

#include "osp/formats/gguf.h"

namespace osp {

// Error(unsupported) with name and value of the first key that changes what a model of the
// architecture computes in a way that osp does not, or may do so: a key that is new to osp is
// passed over only with a value that switches its feature off (0, false, "none"; 1 of a factor; of
// `_swa` the value of all layers; the scale of attention that holds without the key). Of an array
// every element must be such a value.
void refuse_gguf_features(const GgufMetadata& metadata, std::string_view architecture);

}  // namespace osp
