#include "osp/cli/loaded_model.h"

#include "osp/base/error.h"
#include "osp/model/model_dir.h"

namespace osp {

void refuse_bits(const std::string& asked, const std::string& dir, const BitWidths& own) {
  fail(ErrorCode::usage, "--bits {}: {} is quantized to {} already; leave out --bits", asked, dir,
       own.text());
}

std::unique_ptr<LoadedModel> load_model_at(const std::string& dir, const std::string& bits) {
  auto loaded = std::make_unique<LoadedModel>();
  loaded->bits = parse_bits(bits);
  if (is_quantized_model_dir(dir)) {
    loaded->model = load_quantized_model_dir(dir);
    const BitWidths& own = loaded->model.info.bits;
    if (loaded->bits != BitWidths{} && loaded->bits != own) refuse_bits(bits, dir, own);
    loaded->bits = own;
    loaded->tap = loaded->model.make_tap();
    return loaded;
  }
  loaded->model.store = load_model_dir(dir);
  if (loaded->bits != BitWidths{}) {
    loaded->tap = std::make_unique<FakeQuantTap>(loaded->model.store, loaded->bits);
  }
  return loaded;
}

}  // namespace osp
