// What TensorRT's bindings ask of its libraries when they are imported: names. Nothing here can build or run anything.
#define EMPTY(name) void name(void) {}
EMPTY(createInferBuilder_INTERNAL)
EMPTY(createInferRuntime_INTERNAL)
EMPTY(createInferRefitter_INTERNAL)
EMPTY(createNvOnnxParser_INTERNAL)
EMPTY(createNvOnnxParserRefitter_INTERNAL)
EMPTY(getNvOnnxParserVersion)
EMPTY(initLibNvInferPlugins)
EMPTY(getPluginRegistry)
EMPTY(getBuilderPluginRegistry)
EMPTY(getBuilderSafePluginRegistry)
EMPTY(getInferLibVersion)
EMPTY(getLogger)
