# nlohmann/json's headers as the target nlohmann_json::nlohmann_json.
#
# From -DNLOHMANN_JSON_INCLUDE_DIR=..., else the wheel `nlohmann-json` of the Python interpreter in use
# (-DPython_EXECUTABLE=... chooses it), else the system's package (nlohmann-json3-dev).

find_package(Python 3 COMPONENTS Interpreter QUIET)
set(_nlohmann_hint "")
if(Python_Interpreter_FOUND)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c "import nlohmann_json; print(nlohmann_json.get_include())"
    OUTPUT_VARIABLE _nlohmann_hint
    OUTPUT_STRIP_TRAILING_WHITESPACE
    ERROR_QUIET)
endif()
# The path is looked up again at every configure: the wheel may live in pip's temporary build environment.
if(NOT EXISTS "${NLOHMANN_JSON_INCLUDE_DIR}/nlohmann/json.hpp")
  unset(NLOHMANN_JSON_INCLUDE_DIR CACHE)
endif()
find_path(NLOHMANN_JSON_INCLUDE_DIR nlohmann/json.hpp HINTS ${_nlohmann_hint})

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  NlohmannJson
  REQUIRED_VARS NLOHMANN_JSON_INCLUDE_DIR
  FAIL_MESSAGE "no nlohmann/json headers: `pip install nlohmann-json` into the Python in use, or install nlohmann-json3-dev")

if(NlohmannJson_FOUND AND NOT TARGET nlohmann_json::nlohmann_json)
  add_library(nlohmann_json::nlohmann_json INTERFACE IMPORTED)
  target_include_directories(nlohmann_json::nlohmann_json SYSTEM INTERFACE "${NLOHMANN_JSON_INCLUDE_DIR}")
endif()
