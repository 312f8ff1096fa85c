# The programs of this folder on a real GPU, with the library's own objects: `make gpu-test` runs
# them (tests/gpu/native.sh). CMakeLists.txt has the same programs over the emulator.
find_package(Threads REQUIRED)
get_filename_component(root ${CMAKE_CURRENT_LIST_DIR}/../.. ABSOLUTE)
add_subdirectory(${root}/plugins/core ${CMAKE_BINARY_DIR}/core)

add_library(switch_cuda_cases STATIC
  ${root}/tests/native/kernel_cases.cc
  ${root}/tests/cuda/device_array.cc
  ${root}/tests/cuda/orders_gpu.cc)
target_include_directories(switch_cuda_cases PUBLIC
  ${root}/tests/native ${root}/tests/cuda ${root}/plugins/core/cuda ${root}/runtime/src
  ${root}/runtime/include ${CMAKE_CUDA_TOOLKIT_INCLUDE_DIRECTORIES})
target_link_libraries(switch_cuda_cases PUBLIC switch_ops_reference)

file(GLOB programs CONFIGURE_DEPENDS ${root}/tests/cuda/test_cuda_*.cc)
list(FILTER programs EXCLUDE REGEX "/test_cuda_emulator\\.cc$")  # is about the emulator
foreach(source ${programs})
  get_filename_component(name ${source} NAME_WE)
  add_executable(${name} ${source})
  foreach(part ${objects})
    target_sources(${name} PRIVATE $<TARGET_OBJECTS:${part}>)
  endforeach()
  set_target_properties(${name} PROPERTIES LINKER_LANGUAGE CXX CUDA_RUNTIME_LIBRARY Static)
  target_link_libraries(${name} PRIVATE switch_cuda_cases)
endforeach()
