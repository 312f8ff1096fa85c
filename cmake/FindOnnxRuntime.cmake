# ONNX Runtime's C headers as the interface target OnnxRuntime::headers.
#
# The library itself is opened at run time and never linked. cmake/onnxruntime_headers.sh knows where the headers
# may be and obtains them where it can; -DONNXRUNTIME_INCLUDE_DIR=... or the environment variable comes first.

set(ONNXRUNTIME_INCLUDE_DIR "" CACHE PATH "Folder with onnxruntime_c_api.h, or an unpacked release archive")

set(_onnxruntime_hint "${ONNXRUNTIME_INCLUDE_DIR}")
if(NOT _onnxruntime_hint)
  set(_onnxruntime_hint "$ENV{ONNXRUNTIME_INCLUDE_DIR}")
endif()
execute_process(
  COMMAND ${CMAKE_COMMAND} -E env "ONNXRUNTIME_INCLUDE_DIR=${_onnxruntime_hint}"
          sh "${CMAKE_CURRENT_LIST_DIR}/onnxruntime_headers.sh" "${PROJECT_SOURCE_DIR}/build"
  OUTPUT_VARIABLE OnnxRuntime_INCLUDE_DIR
  OUTPUT_STRIP_TRAILING_WHITESPACE
  RESULT_VARIABLE _onnxruntime_result)  # the script's own message goes to stderr

if(NOT _onnxruntime_result EQUAL 0)
  unset(OnnxRuntime_INCLUDE_DIR)
endif()

include(FindPackageHandleStandardArgs)
find_package_handle_standard_args(
  OnnxRuntime
  REQUIRED_VARS OnnxRuntime_INCLUDE_DIR
  FAIL_MESSAGE "no ONNX Runtime headers: the message above names three ways to provide them")

if(OnnxRuntime_FOUND AND NOT TARGET OnnxRuntime::headers)
  add_library(OnnxRuntime::headers INTERFACE IMPORTED)
  target_include_directories(OnnxRuntime::headers SYSTEM INTERFACE "${OnnxRuntime_INCLUDE_DIR}")
endif()
