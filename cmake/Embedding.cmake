# What a C or C++ program that embeds the runtime builds with: `cmake --install TREE --prefix PREFIX` puts there
#
#   include/switch_runtime.h, switch_runtime.hpp
#   lib/libswitch_runtime.so.ABI, libswitch_runtime.so -> it, libswitch_moe_ort.so beside it
#   lib/cmake/switch_runtime/, lib/pkgconfig/switch_runtime.pc       both find the rest relative to themselves
#   share/doc/switch_runtime/LICENSE, NOTICE
#
# Component `embedding`, the only one that an installation without --component takes.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)

# The number of the binary interface is written once, in the header.
set(header "${PROJECT_SOURCE_DIR}/runtime/include/switch_runtime.h")
file(STRINGS "${header}" abi REGEX "^#define SWITCH_ABI_VERSION [0-9]+$")
if(NOT abi MATCHES "([0-9]+)$")
  message(FATAL_ERROR "${header} does not say #define SWITCH_ABI_VERSION <number>")
endif()
set(SWITCH_ABI_VERSION ${CMAKE_MATCH_1})
set_property(DIRECTORY "${PROJECT_SOURCE_DIR}" APPEND PROPERTY CMAKE_CONFIGURE_DEPENDS "${header}")
set_target_properties(switch_runtime PROPERTIES SOVERSION ${SWITCH_ABI_VERSION})
add_library(switch_runtime::switch_runtime ALIAS switch_runtime)  # the name that find_package gives

set(config_dir "${CMAKE_INSTALL_LIBDIR}/cmake/switch_runtime")
set(pkgconfig_dir "${CMAKE_INSTALL_LIBDIR}/pkgconfig")
configure_package_config_file(
  cmake/switch_runtime-config.cmake.in "${PROJECT_BINARY_DIR}/switch_runtime-config.cmake"
  INSTALL_DESTINATION "${config_dir}"
  NO_SET_AND_CHECK_MACRO)
write_basic_package_version_file("${PROJECT_BINARY_DIR}/switch_runtime-config-version.cmake"
  COMPATIBILITY SameMajorVersion)
# From the .pc file's folder to the prefix, which may have been moved.
file(RELATIVE_PATH SWITCH_PREFIX_FROM_PC "/prefix/${pkgconfig_dir}" /prefix)
string(REGEX REPLACE "/$" "" SWITCH_PREFIX_FROM_PC "${SWITCH_PREFIX_FROM_PC}")
configure_file(cmake/switch_runtime.pc.in "${PROJECT_BINARY_DIR}/switch_runtime.pc" @ONLY)

install(TARGETS switch_runtime EXPORT switch_runtime
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT embedding
  NAMELINK_COMPONENT embedding
  INCLUDES DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(TARGETS switch_moe_ort
  LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}" COMPONENT embedding)
install(FILES runtime/include/switch_runtime.h runtime/include/switch_runtime.hpp
  DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}" COMPONENT embedding)
install(EXPORT switch_runtime
  FILE switch_runtime-targets.cmake NAMESPACE switch_runtime::
  DESTINATION "${config_dir}" COMPONENT embedding)
install(FILES
  "${PROJECT_BINARY_DIR}/switch_runtime-config.cmake"
  "${PROJECT_BINARY_DIR}/switch_runtime-config-version.cmake"
  DESTINATION "${config_dir}" COMPONENT embedding)
install(FILES "${PROJECT_BINARY_DIR}/switch_runtime.pc"
  DESTINATION "${pkgconfig_dir}" COMPONENT embedding)
install(FILES LICENSE NOTICE
  DESTINATION "${CMAKE_INSTALL_DATAROOTDIR}/doc/switch_runtime" COMPONENT embedding)
